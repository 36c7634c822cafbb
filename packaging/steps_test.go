//go:build e2e

package packaging

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/capability"
	"vifproxy/internal/lab"
)

// The steps in this file are taken on machines where the daemon is at work for banking, some for shopping as well.

func (m *machine) drop(in, text string) {
	m.Helper()
	m.run("mkdir", "-p", "/run/systemd/system/vifproxyd.service.d")
	path := "/run/systemd/system/vifproxyd.service.d/" + in
	if out, err := m.feed(strings.NewReader(text), "cp", "/dev/stdin", path); err != nil {
		m.Fatalf("%v: %s", err, out)
	}
	m.run("systemctl", "daemon-reload")
}

func (m *machine) undrop(in string) {
	m.Helper()
	m.run("rm", "/run/systemd/system/vifproxyd.service.d/"+in)
	m.run("systemctl", "daemon-reload")
}

func (m *machine) readyAfterTheFirstReconcile() {
	m.run("systemctl", "stop", "vifproxyd")
	m.run("systemctl", "start", "vifproxyd") // returns when the daemon is ready
	err := errors.Join(m.page("banking", "http://bank.example/"), m.page("shopping", "http://shop.example/"))
	if err != nil {
		m.Errorf("ready, but %v", err)
	}
	if status := m.property("StatusText"); !strings.Contains(status, "2 running") {
		m.Errorf("systemd's status text is %q", status)
	}
	// The journal tells the same in its order.
	id := m.property("InvocationID")
	text := m.run("journalctl", "--output=cat", "INVOCATION_ID="+id, "+", "_SYSTEMD_INVOCATION_ID="+id)
	listens, started := strings.LastIndex(text, "proxy listens"), strings.LastIndex(text, "Started vifproxyd.service")
	if listens < 0 || started < listens {
		m.Errorf("the journal:\n%s", text)
	}
}

func (m *machine) journalHasFields() {
	m.served("banking", "bank.example", "refused.example")
	m.until("the journal has the refused host", func() error {
		out := m.run("journalctl", "--unit=vifproxyd", "--identifier=vifproxyd", "VM=banking", "HOST=refused.example", "--output=json")
		var entry struct {
			IP       string `json:"IP"`
			Priority string `json:"PRIORITY"`
			Unit     string `json:"_SYSTEMD_UNIT"`
			Message  string `json:"MESSAGE"`
		}
		if err := json.NewDecoder(strings.NewReader(out)).Decode(&entry); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if entry.IP != "10.137.0.11" || entry.Priority != "6" || entry.Unit != "vifproxyd.service" ||
			!strings.HasPrefix(entry.Message, "refused host") {
			return fmt.Errorf("%+v", entry)
		}
		return nil
	})
	out := m.run("journalctl", "--unit=vifproxyd", "--boot", "--catalog")
	if !strings.Contains(out, "Subject: vifproxyd starts") || !strings.Contains(out, "Defined-By: vifproxy") {
		m.Errorf("the journal explains nothing:\n%s", out)
	}
}

// The unit's own restrictions leave the daemon what it confines proxies with. What a cgroup can limit depends on the
// machine that this one runs on.
func (m *machine) confines() {
	var vms []struct {
		PID         int
		Confinement control.Confinement
	}
	if out := m.run("vifproxyctl", "show", "--json"); json.Unmarshal([]byte(out), &vms) != nil || len(vms) != 1 {
		m.Fatalf("show --json: %s", out)
	}
	c := vms[0].Confinement
	applied := strings.Join(c.Applied, " ")
	if applied != "uid capabilities no_new_privs rlimits seccomp landlock cgroup" {
		m.Errorf("in force: %s; missing: %+v", applied, c.Missing)
	}
	for _, missing := range c.Missing {
		if missing.Mechanism != "cgroup" || !strings.HasPrefix(missing.Cause, "of the controllers") {
			m.Errorf("missing: %+v", missing)
		}
	}
	if most := m.property("TasksMax"); most != "infinity" {
		m.Errorf("TasksMax is %s: a few AppVMs could use up the tasks of all", most)
	}
	score := func(pid string) string { return strings.TrimSpace(m.run("cat", "/proc/"+pid+"/oom_score_adj")) }
	if is := score(fmt.Sprint(vms[0].PID)); is != "500" {
		m.Errorf("the kernel's score of a proxy is %s, want 500", is)
	}
	// Where this machine itself may not lower a score, systemd leaves it at 0.
	if is := score(m.property("MainPID")); is != "-900" && (is != "0" || capability.Have(unix.CAP_SYS_RESOURCE)) {
		m.Errorf("the kernel's score of the daemon is %s, want -900", is)
	}
	if is := m.property("OOMScoreAdjust"); is != "-900" {
		m.Errorf("OOMScoreAdjust is %s", is)
	}
}

// What the daemon starts on request, it must be able to under its unit's restrictions.
func (m *machine) verbsWork() {
	m.run("vifproxyctl", "explain", "banking", "https://bank.example/")
	if out, err := m.try("vifproxyctl", "explain", "banking", "https://shop.example/"); err == nil {
		m.Errorf("explain lets pass what is refused: %s", out)
	}
	m.run("vifproxyctl", "allow", "banking", "shop.example", "--for=10m")
	m.served("banking", "shop.example", "other.example")
	m.run("vifproxyctl", "deny", "banking", "shop.example")
	m.served("banking", "bank.example", "shop.example")
	if out := m.run("vifproxyctl", "denied", "banking"); !strings.Contains(out, "shop.example") {
		m.Errorf("denied: %s", out)
	}
	m.run("vifproxyctl", "kill-all-and-restart")
	m.served("banking", "bank.example", "shop.example")
}

// flush does what another program may do: with nftables it empties the chains that lead to the proxies, with
// iptables it loads its own rules instead of all there are.
func (m *machine) flush() {
	m.Helper()
	if m.Ruleset == lab.R42 {
		m.run("nft", "flush", "chain", "ip", "qubes", "custom-input")
		m.run("nft", "flush", "chain", "ip", "vifproxy", "untracked_in")
	} else {
		must(m.T, m.LoadRules(m.Context()))
	}
}

func (m *machine) reloadRepairs() {
	pids := m.serving()
	m.flush()
	m.run("sh", "-c", "mv /bin/kill /bin/kill.away; systemctl reload vifproxyd; status=$?; mv /bin/kill.away /bin/kill; exit $status") // no procps
	m.repaired(pids)
}

func (m *machine) hangupRepairs() {
	pids := m.serving()
	m.flush()
	m.run("kill", "-HUP", m.property("MainPID"))
	m.repaired(pids)
}

func (m *machine) repaired(pids map[string]int) {
	m.served("banking", "bank.example", "shop.example")
	if now := m.serving(); !maps.Equal(now, pids) {
		m.Errorf("proxies are %v, before %v; vifproxyd said last:\n%s", now, pids, m.run("journalctl", "-u", "vifproxyd", "-n", "40", "-o", "cat"))
	}
}

// serving returns the processes that serve AppVMs, when the daemon has done all that it has to do.
func (m *machine) serving() map[string]int {
	m.Helper()
	m.run("vifproxyctl", "update")
	var vms []control.VM
	must(m.T, json.Unmarshal([]byte(m.run("vifproxyctl", "show", "--json")), &vms))
	pids := map[string]int{}
	for _, vm := range vms {
		pids[vm.Name] = vm.PID
	}
	return pids
}

// A restart waits for nothing: it takes half a second on a quiet machine. An end that waits for proxies takes some seconds more
// (docs/bounds.md). The best of some restarts counts, as how long one takes on a busy machine says nothing.
func (m *machine) restartIsQuick() {
	const most = 3 * time.Second
	best := time.Hour
	for range 5 {
		start := time.Now()
		m.run("systemctl", "restart", "vifproxyd")
		for m.page("banking", "http://bank.example/") != nil && time.Since(start) < patience {
		}
		best = min(best, time.Since(start))
	}
	m.Logf("from `systemctl restart` to a page: %v", best)
	if best > most {
		m.Errorf("that is more than %v", most)
	}
}

func (m *machine) watchdogRestarts() {
	m.drop("watchdog.conf", "[Service]\nWatchdogSec=2s\n")
	m.run("systemctl", "restart", "vifproxyd") // the daemon is told at its start
	pid := m.property("MainPID")
	m.run("kill", "-STOP", pid)
	m.until("another daemon is there", func() error {
		if now := m.property("MainPID"); now == pid || now == "0" {
			return fmt.Errorf("pid %s", now)
		}
		return nil
	})
	m.undrop("watchdog.conf")
	m.run("systemctl", "restart", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	if result := m.run("journalctl", "--boot", "--unit=vifproxyd"); !strings.Contains(result, "Watchdog timeout") {
		m.Error("it was not the watchdog")
	}
}

func (m *machine) unitIsHardened() {
	if out := m.run("systemd-analyze", "verify", "--man=no", "/usr/lib/systemd/system/vifproxyd.service"); out != "" {
		m.Errorf("systemd-analyze verify:\n%s", out)
	}
	const most = 2.0
	var exposure float64
	for line := range strings.Lines(m.run("systemd-analyze", "security", "--no-pager", "vifproxyd.service")) {
		if _, rest, ok := strings.Cut(line, "Overall exposure level for vifproxyd.service: "); ok {
			if _, err := fmt.Sscan(rest, &exposure); err != nil {
				m.Fatalf("%v in %q", err, line)
			}
		}
	}
	m.Logf("systemd-analyze security: %v", exposure)
	if exposure == 0 || exposure > most {
		m.Errorf("exposure level %v, want at most %v", exposure, most)
	}
	// What that comes to, and what it hands down: to proxies nothing, to what becomes one CAP_SETGID, CAP_SETUID and
	// CAP_SETPCAP, to other programs nothing.
	is := func(who, status string, wants ...string) {
		m.Helper()
		for _, want := range wants {
			if !strings.Contains(status, want+"\n") {
				m.Errorf("%s is without %q:\n%s", who, want, status)
			}
		}
	}
	const all, none = "00000000000011e0", "0000000000000000"
	daemon := m.property("MainPID")
	for _, thread := range strings.Fields(m.run("ls", "/proc/"+daemon+"/task")) {
		ambient := none
		status, err := m.try("cat", "/proc/"+daemon+"/task/"+thread+"/status")
		if err != nil && thread != daemon {
			continue // it has ended
		}
		if begins := "00000000000001c0"; strings.Contains(status, "CapAmb:\t"+begins) { // what becomes a proxy
			ambient = begins
		}
		is("a thread of the daemon", status, "Groups:\t ", "CapEff:\t"+all, "CapPrm:\t"+all, "CapAmb:\t"+ambient,
			"NoNewPrivs:\t1", "Seccomp:\t2")
	}
	ids := strings.Fields(m.run("stat", "--format=%u %g", "/run/vifproxy", "/run/vifproxy/control.sock"))
	if len(ids) != 4 || ids[0] == "0" || ids[0] != ids[2] || ids[1] != "0" || ids[3] != "0" {
		m.Errorf("the runtime directory and the socket belong to %v", ids)
	}
	is("the daemon", m.run("cat", "/proc/"+daemon+"/status"),
		"Uid:"+strings.Repeat("\t"+ids[0], 4), "Gid:"+strings.Repeat("\t0", 4))
	m.run("setpriv", "--reuid="+ids[0], "--regid=nogroup", "--clear-groups", "vifproxyctl", "show")
	if out, err := m.try("setpriv", "--reuid=nobody", "--regid=root", "--clear-groups", "vifproxyctl", "show"); err == nil {
		m.Errorf("nobody in root's group is told\n%s", out)
	}
	for _, socket := range []string{"/run/systemd/private", "/run/dbus"} {
		if mode := m.run("nsenter", "--target="+daemon, "--mount", "stat", "--format=%a", socket); mode != "0\n" {
			m.Errorf("the daemon sees %s, mode %s", socket, mode)
		}
	}
	looked := 0
	for _, pid := range m.proxies() {
		status, err := m.try("cat", "/proc/"+pid+"/status")
		if err != nil {
			continue // it has ended
		}
		looked++
		is("a proxy", status, "Groups:\t ", "CapInh:\t"+none, "CapPrm:\t"+none,
			"CapEff:\t"+none, "CapBnd:\t"+none, "CapAmb:\t"+none, "NoNewPrivs:\t1", "Seccomp:\t2")
	}
	if looked == 0 {
		m.Error("there is no proxy to look at")
	}
}

// What the daemon may not read or write, as it is not root, it says, with a remedy that works.
func (m *machine) needsRights() {
	says := func(text string) {
		m.Helper()
		m.until("it says "+text, func() error {
			out, _ := m.try("vifproxyctl", "show")
			out += m.run("journalctl", "--output=cat", "_SYSTEMD_INVOCATION_ID="+m.property("InvocationID"))
			if !strings.Contains(out, text) {
				return errors.New(out)
			}
			return nil
		})
	}
	file := filepath.Join(m.rulesDir(), "banking.10.137.0.11")
	must(m.T, os.Chmod(file, 0o600))
	m.run("systemctl", "restart", "vifproxyd") // it forgets the last good rules
	says("banking.10.137.0.11: cannot be opened: permission denied (vifproxyd is not root, but in root's group: ")
	if m.page("banking", "http://bank.example/") == nil {
		m.Error("a file that cannot be read permits something")
	}
	must(m.T, os.Chmod(file, 0o640))
	m.run("vifproxyctl", "update")
	m.served("banking", "bank.example", "shop.example")

	// The distribution's tinyproxy has this directory.
	m.run("systemctl", "stop", "tinyproxy")
	text := m.run("cat", "/usr/share/doc/vifproxy/examples/config")
	text = strings.Replace(text, "{log_file}", "/var/log/vifproxy/{vm_ip}", 1)
	text = strings.Replace(text, "{pid_file}", "/run/tinyproxy/{vm_ip}", 1)
	m.run("mkdir", "/var/log/vifproxy")
	m.rule("config", text)
	if out, err := m.try("vifproxyctl", "update"); err == nil {
		m.Errorf("update does not say that logs cannot be written: %s", out)
	}
	says("or nothing, into the template \"config\", or add LogsDirectory= to the unit with `systemctl edit vifproxyd`)")
	says("may not write there: write PidFile ")
	m.served("banking", "bank.example", "shop.example") // all the same

	// What docs/migration.md tells of the old place of files.
	options := filepath.Join(m.rw(), "config/vifproxyd.options")
	must(m.T, os.WriteFile(options, []byte("OPTIONS=\"--compat-dir=/run/tinyproxy\"\n"), 0o644))
	m.run("systemctl", "restart", "vifproxyd")
	says("may not write there: add RuntimeDirectory=tinyproxy to the unit with `systemctl edit vifproxyd`)")
	m.drop("old.conf", "[Service]\nRuntimeDirectory=tinyproxy\nLogsDirectory=vifproxy\n")
	m.run("systemctl", "restart", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	pid := strings.TrimSpace(m.run("cat", "/run/tinyproxy/10.137.0.11"))
	if !slices.Contains(m.proxies(), pid) {
		m.Errorf("pid file: %s", pid)
	}
	for _, path := range []string{"/run/tinyproxy/banking/log", "/var/log/vifproxy/10.137.0.11"} {
		m.until(path+" has what was refused", func() error {
			if log := m.run("cat", path); !strings.Contains(log, "shop.example") {
				return errors.New(log)
			}
			return nil
		})
	}
	must(m.T, errors.Join(os.Remove(options), os.Remove(filepath.Join(m.rulesDir(), "config"))))
	m.undrop("old.conf")
	m.run("systemctl", "restart", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	m.run("rm", "-r", "/var/log/vifproxy", "/var/log/private/vifproxy")
	m.run("systemd-tmpfiles", "--create", "tinyproxy.conf")
	m.run("systemctl", "start", "tinyproxy")
}

// staysStopped checks that what a person has stopped is, in a daemon that is ready.
func (m *machine) staysStopped(vm string) {
	m.Helper()
	is := regexp.MustCompile("(?m)^" + vm + " .* stopped ")
	if out := m.run("vifproxyctl", "show"); !is.MatchString(out) {
		m.Errorf("%s was stopped: %s", vm, out)
	}
	if err := m.page(vm, "http://bank.example/"); err == nil {
		m.Errorf("%s was stopped, and has a page", vm)
	}
}

// The unit's daemon may not make its runtime directory. It serves on without, and ends when that keeps a proxy from starting.
func (m *machine) removedFilesComeBack() {
	m.run("systemctl", "restart", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	pid := m.property("MainPID")
	time.Sleep(10 * time.Second) // lifeMin, of supervisor
	m.run("rm", "-r", "/run/vifproxy")
	m.until("systemd's status tells", func() error {
		if text := m.property("StatusText"); !strings.Contains(text, "mkdir /run/vifproxy") {
			return errors.New(text)
		}
		return nil
	})
	if out, err := m.try("vifproxyctl", "show"); err == nil || !strings.Contains(out, "systemctl restart vifproxyd") {
		m.Errorf("vifproxyctl says %v, %s", err, out)
	}
	m.served("banking", "bank.example", "shop.example")
	if now := m.property("MainPID"); now != pid {
		m.Errorf("nothing had to start, and the daemon ended: %s, %s before", now, pid)
	}
	begin := time.Now()
	m.rule("banking.10.137.0.11", "#: format domains", "bank.example", "shop.example") // takes another process
	m.served("banking", "shop.example", "other.example")
	m.Logf("from a change that takes a runtime directory to a page: %v", time.Since(begin))
	m.until("another daemon is ready", func() error {
		if state := m.property("ActiveState"); state != "active" || m.property("MainPID") == pid {
			return errors.New(state)
		}
		return nil
	})
	m.run("vifproxyctl", "show")
	m.rule("banking.10.137.0.11", "#: format domains", "bank.example")
	m.run("vifproxyctl", "update")
	m.served("banking", "bank.example", "shop.example")
}

// A journal that takes nothing any more holds up no AppVM, and has later how much it missed.
func (m *machine) stoppedJournalHoldsUpNothing() {
	journald := strings.TrimSpace(m.run("systemctl", "show", "--value", "--property=MainPID", "systemd-journald"))
	m.run("kill", "-STOP", journald)
	// systemd itself must not need to log meanwhile: no systemctl.
	const often = `i=0; while [ $i -lt 25 ]; do vifproxyctl stop banking; vifproxyctl start banking; i=$((i+1)); done`
	var err error
	for range 10 { // each in its time
		_, one := m.try("sh", "-c", often)
		err = errors.Join(err, one)
	}
	said, _ := m.try("vifproxyctl", "show")
	page := m.page("banking", "http://bank.example/")
	m.run("kill", "-CONT", journald)
	if err != nil || page != nil {
		m.Errorf("while the journal is stopped: %v, %v", err, page)
	}
	if !strings.Contains(said, "problem: log: ") {
		m.Errorf("show does not tell: %s", said)
	}
	m.until("the journal has what it missed", func() error {
		_, err := m.try("journalctl", "--boot", "--unit=vifproxyd", "--output=cat", "--grep=messages are lost here")
		return err
	})
	m.until("nothing is wrong any more", func() error {
		if out := m.run("vifproxyctl", "show"); strings.Contains(out, "problem: log") {
			return errors.New(out)
		}
		return nil
	})
}

func (m *machine) crashIsCleanedUp() {
	m.drop("crash.conf", "[Service]\nRestart=no\n")
	m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "vifproxyd")
	m.until("the unit has failed", func() error {
		if state := m.property("ActiveState"); state != "failed" {
			return errors.New(state)
		}
		return nil
	})
	m.nothingLeft()
	m.undrop("crash.conf")
	m.run("systemctl", "start", "vifproxyd")
	pid := m.property("MainPID")
	m.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "vifproxyd")
	m.until("it is started again", func() error {
		if now := m.property("MainPID"); now == pid || now == "0" {
			return fmt.Errorf("pid %s", now)
		}
		return nil
	})
	m.served("banking", "bank.example", "shop.example")
}
