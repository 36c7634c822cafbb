// Vifproxyd runs one filtering proxy for every AppVM behind a Qubes firewall VM. This is its main: options, wiring and signals. Package
// supervisor does the work.
//
// Concurrency: run starts a goroutine for each watcher and for signals, and waits for them before it returns, but not for long. They speak to the
// supervisor by those of its methods that any goroutine may call.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"vifproxy/firewall"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/internal/footprint"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// How often something is done without an event.
const (
	signOfLife   = 30 * time.Second
	slowLook     = 5 * time.Minute  // everything is read again, in case an event was lost
	iptablesLook = 30 * time.Second // the same with iptables, which sends no event when it is flushed
)

// retiredMax is how many older processes of one AppVM may finish their connections. Each takes about 2 MB until it has none left, for
// --drain at most.
const retiredMax = 16

// fullMax is how many of these may be full: of clients that only hold their connections, so that others were not served. An AppVM can
// have the daemon start a process for each such crowd, and each may take all the memory that a proxy may take.
const fullMax = 2

// lastWords is how long the daemon's end waits for the reader of its log, and for systemd.
const lastWords = time.Second

// collectAt is how much the heap grows until the garbage collector runs, in percent of what is live, from the start until the daemon is
// at rest. With the usual 100, a start of 250 proxies leaves 0.7 MiB more that is free only in pieces between what lives. After that,
// what comes and goes is garbage for the most part, and a collection with 250 AppVMs takes as much CPU time as an attach.
const collectAt = 50

// rest gives memory back to the kernel. A failure costs memory only.
func rest() {
	debug.SetGCPercent(100)
	_ = footprint.Release()
}

func main() {
	o, err := parseOptions(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		complain(err)
		os.Exit(2)
	}
	log, backlog := newLogger(o.logFormat, o.logLevel)
	emitter := events.New(log)
	if o.clean {
		err = clean(o, log, emitter)
	} else {
		err = run(o, log, backlog, emitter)
	}
	if err != nil {
		emitter.Emit(events.DaemonFails, events.About{Err: err.Error()})
	}
	backlog.Close(lastWords)
	if err != nil {
		os.Exit(1)
	}
}

// complain says what is wrong with the command line. It takes one line, because systemd tries again each second. The number in front
// makes it an error to the journal (sd-daemon(3)), where `vifproxyctl doctor` finds it.
func complain(err error) {
	prefix := ""
	if ok, err := journal.StderrIsJournalStream(); err == nil && ok {
		prefix = "<3>"
	}
	fmt.Fprintf(os.Stderr, "%svifproxyd: %v\n", prefix, err)
}

// systemdMakes reports whether systemd makes a directory at each start, because of RuntimeDirectory= in the unit. systemd names such
// directories to the daemon (systemd.exec(5)).
func systemdMakes(dir string) bool {
	return slices.Contains(filepath.SplitList(os.Getenv("RUNTIME_DIRECTORY")), dir)
}

// versionBound is how long tinyproxy may take to print its version.
const versionBound = 10 * time.Second

// warnOfAdvisories warns of a tinyproxy that is known to be unsafe.
func warnOfAdvisories(ctx context.Context, emitter *events.Emitter, binary tinyproxy.Binary) {
	ctx, cancel := context.WithTimeout(ctx, versionBound)
	defer cancel()
	version, err := binary.Version(ctx)
	release, ok := tinyproxy.ParseVersion(version)
	if err != nil || !ok {
		return // a program that cannot print its version will not start either, and that failure is reported
	}
	changes := ""
	if binary.Path == defaults.Tinyproxy {
		changes = tinyproxy.DebianChanges("")
	}
	for _, a := range tinyproxy.Advisories(release, changes) {
		if a.Severe {
			emitter.Emit(events.Vulnerable, events.About{Version: version, Why: fmt.Sprintf(
				"%s, unless the package has the patch: %s; versions after %s do not have it", strings.Join(a.IDs, ", "), a.Effect, a.Last)})
		}
	}
}

// resync returns the time after which everything is read without an event.
func resync(fw firewall.Backend) time.Duration {
	if fw.String() == "iptables" {
		return iptablesLook
	}
	return slowLook
}

// heartbeat keeps the loop's own heartbeat within systemd's watchdog time.
func heartbeat() time.Duration {
	if watchdog, err := daemon.SdWatchdogEnabled(false); err == nil && watchdog > 0 {
		return min(signOfLife, watchdog/3)
	}
	return signOfLife
}

// texts returns openings as people write them.
func texts(egress []rules.Egress) (all []string) {
	for _, e := range egress {
		all = append(all, e.String())
	}
	return all
}
