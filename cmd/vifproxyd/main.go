// Vifproxyd runs one filtering proxy for every AppVM behind a Qubes firewall VM. This is its main: options, wiring and signals. Package
// supervisor does the work.
//
// Concurrency: run starts a goroutine for each watcher and for signals, and waits for all of them before it returns. They speak to the
// supervisor by those of its methods that any goroutine may call.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/firewall/forward"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/backlog"
	"vifproxy/internal/capability"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/proxies"
	"vifproxy/internal/resolvconf"
	"vifproxy/internal/sockdiag"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/supervisor"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

// How often something is done without an event.
const (
	signOfLife   = 30 * time.Second
	slowLook     = 5 * time.Minute  // everything is read again, in case an event was lost
	iptablesLook = 30 * time.Second // the same with iptables, which sends no event when it is flushed
)

// mostRetired is how many older processes of one AppVM may finish their connections. Each takes about 2 MB until it has none left, for
// --drain at most.
const mostRetired = 16

// mostFull is how many of these may be full: of clients that only hold their connections, so that others were not served. An AppVM can
// have the daemon start a process for each such crowd, and each may take all the memory that a proxy may take.
const mostFull = 2

// lastWords is how long the daemon's end waits for the reader of its log, and for systemd.
const lastWords = time.Second

// collectAt is how much the heap grows until the garbage collector runs, in percent of what is live, from the start until the daemon is
// at rest. With the usual 100, a start of 250 proxies leaves 0.7 MiB more that is free only in pieces between what lives. After that,
// what comes and goes is garbage for the most part, and a collection with 250 AppVMs takes as much CPU time as an attach.
const collectAt = 50

// rest gives memory back to the kernel.
func rest() {
	debug.SetGCPercent(100)
	debug.FreeOSMemory()
}

// resolvConf is the file in which the proxies' C library finds its resolvers (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

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

// run is the daemon's life, from nothing to nothing.
func run(o options, log *slog.Logger, backlog *backlog.Queue, emitter *events.Emitter) error {
	debug.SetGCPercent(collectAt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	if err := capability.Keep(); err != nil { // the programs that the daemon runs need none
		return err
	}
	inherited := handover.Inherited()
	emitter.Emit(events.DaemonStarts, events.About{Version: defaults.Version(), PID: os.Getpid()})

	alarm, err := newAlarm()
	if err != nil {
		return err
	}

	// The sockets come first: if another vifproxyd runs, they show it before anything of its is removed.
	socket, err := control.Listen(o.controlSocket, o.socketGroup)
	if err != nil {
		return err
	}
	defer socket.Close()
	name, err := alone()
	if err != nil {
		return err
	}
	defer name.Close()

	// First all is closed, then cleaned: no binding is left when the processes of an earlier run are ended, and the fence is there before
	// any proxy.
	fw, err := backend.Open(ctx, log, o.firewall, o.ports())
	if err != nil {
		return err
	}
	sandbox, confinement, err := proxies.Confine(emitter, o.requireConfinement)
	if err != nil {
		return errors.Join(err, fw.Remove(context.WithoutCancel(ctx)))
	}
	way, err := choose(ctx, log, o, fw, sandbox.Group(), inherited)
	if err != nil {
		sandbox.Close()
		return err
	}
	defer way.close()
	fw = way.firewall
	users := new(tinyproxy.Identities)
	proxies, err := proxies.Launch(ctx, emitter, proxies.Options{
		Binary: o.tinyproxy, RuntimeDir: o.runtimeDir, CompatDir: o.compatDir, Users: users, Sandbox: sandbox, Egress: o.egress,
		Switchboard: way.launch(), Prompt: way.kernel != nil,
	})
	if err != nil {
		sandbox.Close()
		return errors.Join(err, fw.Remove(context.WithoutCancel(ctx)))
	}
	defer proxies.Close()

	systemd := newNotifier(toSystemd)
	defer systemd.close(lastWords)
	var helpers sync.WaitGroup
	var binary tinyproxy.Binary // as last seen
	chains := new(forward.Reader)
	ruleFiles := rules.NewReader(o.rulesDir, o.template)
	s := supervisor.New(supervisor.Config{
		ReadLinks:    netwatch.Read,
		LookAtLinks:  netwatch.Look,
		ReadRules:    ruleFiles.Read,
		RulesChanged: ruleFiles.Changed,
		ReadBinary: func() (tinyproxy.Binary, error) {
			found, err := tinyproxy.Identify(o.tinyproxy)
			if err == nil && found != binary {
				binary = found
				helpers.Go(func() { warnOfAdvisories(ctx, emitter, found) })
			}
			return found, err
		},
		ReadListeners: sockdiag.ReadListeners,
		ReadPlaces:    func(files ...string) string { return confine.Places(files...) + proxies.Renewals() },
		ReadResolvers: func() ([]netip.Addr, error) { return resolvconf.Read(resolvConf) },
		Attempts:      firewall.Attempts,
		Beyond:        nft.Beyond,
		LookUp: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		ReadStops: o.stops().Read, WriteStops: o.stops().Write,
		BootTime: bootTime, WakeAt: alarm.set,
		Firewall:  fw,
		Forget:    way.forget(),
		ForgetAll: way.forgetAll(o),
		Proxies:   proxies,
		Users:     users,
		Confined:  confinement,
		Egress:    o.egress,
		Leave:     o.leave,

		ReadForward: chains.Read,
		Ports:       o.listenPorts,
		Limits:      plan.Limits{Drain: o.drain, Generations: mostRetired, Full: mostFull},
		Interval:    interval(),
		Look:        look(fw),
		Rest:        rest,
		Notify:      systemd.notify,
		Events:      emitter,
		Setup: control.Setup{
			Version: defaults.Version(), Started: time.Now(), UID: os.Geteuid(), ProxyPort: int(o.proxyPort), Tinyproxy: o.tinyproxy,
			RulesDir: o.rulesDir, Template: o.template, RuntimeDir: o.runtimeDir, PID: os.Getpid(),
			Leave: o.leave, EgressAllow: texts(o.egress),
			Confinement: confinement, Switchboard: way.said,
		},
		SystemdMakesFiles: systemdMakes(o.runtimeDir),
	})

	ruleFiles.OnLate(func() { s.Wake(mailbox.Rules) })
	proxies.OnLogProblem(func() { s.Impaired("logs of proxies", proxies.LogProblem) })
	helpers.Go(func() { alarm.run(ctx, func() { s.Wake(0) }) })
	helpers.Go(func() {
		proxies.KeepFiles(ctx, func(err error) {
			s.Impaired("files of proxies", func() error { return err })
			s.Wake(mailbox.Resolvers) // with them, places are read
		})
	})
	helpers.Go(func() {
		nft.KeepEvicting(ctx, func(err error) {
			s.Impaired("connection tracking", func() error { return err })
		})
	})
	helpers.Go(func() { way.watch(ctx, func() { s.Wake(mailbox.Firewall) }) })
	backlog.OnChange(func() { s.Impaired("log", backlog.Problem) })
	watch := func(what string, input mailbox.Reason, f func(ctx context.Context, report func(error)) error) {
		helpers.Go(func() { s.KeepWatching(ctx, what, input, f) })
	}
	watch("netlink", mailbox.Links, func(ctx context.Context, report func(error)) error {
		return netwatch.Watch(ctx, func(h netwatch.Hint) { report(nil); s.Hint(h) })
	})
	watch("rule directory", mailbox.Rules, func(ctx context.Context, report func(error)) error {
		return rules.Watch(ctx, o.rulesDir, o.template, func() { s.Wake(mailbox.Rules) }, report)
	})
	watch("resolvers", mailbox.Resolvers, func(ctx context.Context, report func(error)) error {
		return resolvconf.Watch(ctx, confine.Resolver, func() { s.Wake(mailbox.Resolvers) }, report)
	})
	watch("nftables", mailbox.Firewall, func(ctx context.Context, report func(error)) error {
		return nft.Watch(ctx, func() { report(nil); s.Wake(mailbox.Firewall) })
	})
	watch("links", mailbox.Firewall, func(ctx context.Context, report func(error)) error {
		return forward.WatchLinks(ctx, func() {
			report(nil)
			chains.LinksChanged()
			s.Wake(mailbox.Firewall)
		})
	})
	removed := false // the socket
	watch("control socket", 0, func(ctx context.Context, report func(error)) error {
		if removed {
			if err := socket.Again(); err != nil {
				return err
			}
		}
		report(nil)
		err := control.Serve(ctx, socket, s, log)
		removed = errors.Is(err, control.ErrRemoved)
		return err
	})
	helpers.Go(func() {
		for {
			select {
			case <-hup:
				emitter.Emit(events.Reloading, events.About{Why: "SIGHUP"})
				if err := s.Reload(ctx); err != nil && ctx.Err() == nil {
					log.Error("cannot read everything again", "err", err)
				}
			case <-ctx.Done():
				return
			}
		}
	})

	err = s.Run(ctx)
	stop()
	helpers.Wait()
	return err
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

func look(fw firewall.Backend) time.Duration {
	if fw.String() == "iptables" {
		return iptablesLook
	}
	return slowLook
}

// interval keeps the loop's own heartbeat within systemd's watchdog time.
func interval() time.Duration {
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
