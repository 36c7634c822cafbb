//go:build e2e

// Package packaging tests vifproxy as users get it: packages, unit and installation, on a Debian with a real systemd,
// whose network is that of a lab's firewall VM. Run by `make e2e`.
package packaging

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// marker tells a VM of Qubes OS.
const marker = "/usr/share/qubes/marker-vm"

// flag does what qubes-sysinit.service does for a service that is on.
var flag = map[string]string{"/etc/tmpfiles.d/qubes-service.conf": "d /run/qubes-service\nf /run/qubes-service/vifproxy\n"}

func (m *machine) rule(file string, lines ...string) {
	m.Helper()
	must(m.T, os.MkdirAll(m.rulesDir(), 0o755))
	must(m.T, os.WriteFile(filepath.Join(m.rulesDir(), file), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
}

// install installs a package with the tool for its kind.
func (m *machine) install(path string) string {
	m.Helper()
	inside := "/root/" + filepath.Base(path)
	m.copy(path, inside)
	defer m.run("rm", inside)
	if strings.HasSuffix(path, ".rpm") {
		return m.run("rpm", "--upgrade", "--nodeps", inside) // its dependencies are known to dpkg only
	}
	return m.run("dpkg", "--install", inside)
}

// step is a part of a test, with a name.
func (m *machine) step(name string, f func(*machine)) {
	m.Run(name, func(t *testing.T) {
		part := *m
		part.T = t
		f(&part)
	})
}

func (m *machine) copy(from, to string) {
	m.Helper()
	f, err := os.Open(from)
	must(m.T, err)
	defer f.Close()
	if out, err := m.feed(f, "cp", "/dev/stdin", to); err != nil {
		m.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

func (m *machine) drop(in, text string) {
	m.Helper()
	m.run("mkdir", "-p", "/run/systemd/system/vifproxyd.service.d")
	if out, err := m.feed(strings.NewReader(text), "cp", "/dev/stdin", "/run/systemd/system/vifproxyd.service.d/"+in); err != nil {
		m.Fatalf("%v: %s", err, out)
	}
	m.run("systemctl", "daemon-reload")
}

func (m *machine) undrop(in string) {
	m.Helper()
	m.run("rm", "/run/systemd/system/vifproxyd.service.d/"+in)
	m.run("systemctl", "daemon-reload")
}

// A firewall VM of Qubes R4.2, based on a template: the whole life of the package.
func TestInQubes(t *testing.T) {
	now, before := packages(t)
	m := newMachine(t, lab.R42)

	// The template. There, and in every VM without the flag, the package changes nothing.
	m.newRoot(map[string]string{marker: "# Qubes\n4.2\n"})
	m.boot()
	m.rule("banking.10.137.0.11", "#: format domains", "bank.example")
	m.install(now.deb)
	if enabled := m.property("UnitFileState"); enabled != "enabled" {
		t.Errorf("the unit is %s", enabled)
	}
	skipped := func() {
		t.Helper()
		if state, met := m.property("ActiveState"), m.property("ConditionResult"); state != "inactive" || met != "no" {
			t.Errorf("without the service flag: the unit is %s, condition met: %s", state, met)
		}
		m.nothingLeft()
	}
	skipped()
	m.halt()
	m.keep()
	m.newRoot(nil)
	m.boot()
	m.attach("banking", "10.137.0.11")
	skipped()
	if out, err := m.try("vifproxyctl", "show"); err == nil || !strings.Contains(out, "not running") {
		t.Errorf("vifproxyctl show: %v, %s", err, out)
	}
	must(t, m.Detach("vif2.0"))
	m.halt()

	// With it, from the next start on; the rule files are where they were.
	m.newRoot(flag)
	m.boot()
	if state := m.property("ActiveState") + " " + m.property("SubState"); state != "active running" {
		t.Fatalf("the unit is %s", state)
	}
	m.attach("banking", "10.137.0.11")
	m.served("banking", "bank.example", "shop.example")
	m.rule("shopping.10.137.0.12", "^shop\\.example$")
	m.attach("shopping", "10.137.0.12")
	m.served("shopping", "shop.example", "bank.example")

	m.step("ready", (*machine).readyAfterTheFirstReconcile)
	m.step("journal", (*machine).journalHasFields)
	m.step("reload", (*machine).reloadRepairs)
	m.step("verbs", (*machine).verbsWork)
	m.step("restart", (*machine).restartIsQuick)
	m.step("watchdog", (*machine).watchdogRestarts)
	m.step("hardened", (*machine).unitIsHardened)
	m.step("crash", (*machine).crashIsCleanedUp)
	m.step("stop", func(m *machine) {
		m.run("systemctl", "stop", "vifproxyd")
		m.nothingLeft()
	})
	m.run("systemctl", "start", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")
	m.halt() // with AppVMs connected
	if text, err := m.Command(t.Context(), "nft", "list", "ruleset").CombinedOutput(); err != nil ||
		strings.Contains(string(text), "vifproxy") {
		t.Errorf("a shutdown leaves %v\n%s", err, text)
	}

	// A disposable netvm: /rw is new too, a copy of its own template's.
	m.newRoot(flag)
	m.boot()
	m.served("banking", "bank.example", "shop.example")
	m.upgradeAndRemove(before, now)
	for _, vif := range []string{"vif3.0", "vif4.0"} {
		must(t, m.Detach(vif))
	}
	m.halt()
}

// Any other machine, whose firewall is iptables: an ordinary service.
func TestOnAnOrdinaryMachine(t *testing.T) {
	now, before := packages(t)
	m := newMachine(t, lab.R41)
	m.newRoot(nil)
	m.boot()
	m.install(now.deb)
	if state := m.property("ActiveState"); state != "active" {
		t.Fatalf("after the installation the unit is %s", state)
	}
	// Rule files elsewhere, by the way that the package's own file of options tells; a group that is told too.
	m.run("sed", "-i", "s/^# OPTIONS=/OPTIONS=/", "/etc/default/vifproxyd")
	m.run("mkdir", "/etc/vifproxy")
	m.run("cp", "/usr/share/doc/vifproxy/examples/banking.10.137.0.11", "/usr/share/doc/vifproxy/examples/config",
		"/etc/vifproxy")
	m.run("systemctl", "restart", "vifproxyd")
	m.attach("banking", "10.137.0.11")
	m.served("banking", "bank.example", "shop.example")
	if mode := m.run("stat", "-c", "%a %G", "/run/vifproxy/control.sock"); mode != "660 adm\n" {
		t.Errorf("the control socket is %s", mode)
	}
	m.step("reload", (*machine).reloadRepairs)
	m.step("hangup", (*machine).hangupRepairs)
	m.step("crash", (*machine).crashIsCleanedUp)
	m.step("legacy", func(m *machine) {
		m.run("systemctl", "stop", "vifproxyd")
		m.nothingLeft()
		m.run("update-alternatives", "--set", "iptables", "/usr/sbin/iptables-legacy")
		m.run("systemctl", "start", "vifproxyd")
		if text := m.run("iptables-legacy", "-S", "VIFPROXY"); !strings.Contains(text, "10.137.0.11") {
			m.Errorf("rules: %s", text)
		}
		m.run("systemctl", "stop", "vifproxyd")
		m.nothingLeft()
		m.run("update-alternatives", "--auto", "iptables")
	})
	m.run("systemctl", "start", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")

	// Users' files outlive everything, but what the package made goes with a purge.
	m.upgradeAndRemove(before, now)
	if out := m.run("cat", "/etc/vifproxy/banking.10.137.0.11"); !strings.Contains(out, "bank.example") {
		t.Errorf("the rule file after the purge: %s", out)
	}
	must(t, m.Detach("vif2.0"))
	m.halt()
}

func (m *machine) readyAfterTheFirstReconcile() {
	m.run("systemctl", "stop", "vifproxyd")
	m.run("systemctl", "start", "vifproxyd") // returns when the daemon is ready
	if err := errors.Join(m.page("banking", "http://bank.example/"), m.page("shopping", "http://shop.example/")); err != nil {
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
		out := m.run("journalctl", "--unit=vifproxyd", "VM=banking", "HOST=refused.example", "--output=json")
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

// What the daemon starts on request, it must be able to under its unit's restrictions.
func (m *machine) verbsWork() {
	if out := m.run("vifproxyctl", "explain", "banking", "https://bank.example/"); !strings.Contains(out, "bank.example") {
		m.Errorf("explain: %s", out)
	}
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

// flush does what another program may do: with nftables it empties the chains that lead to the proxies, with iptables it
// loads its own rules instead of all there are.
func (m *machine) flush() {
	m.Helper()
	if m.Ruleset == lab.R42 {
		m.run("nft", "flush", "chain", "ip", "qubes", "custom-input")
		m.run("nft", "flush", "chain", "ip", "vifproxy", "prerouting")
	} else {
		must(m.T, m.LoadRules(m.Context()))
	}
}

func (m *machine) reloadRepairs() {
	intact, pids := m.filter(), m.proxies()
	m.flush()
	if m.filter() == intact && m.Ruleset == lab.R41 { // nftables tells the daemon, which may be quicker than this
		m.Error("flushing changes nothing, so that this test shows nothing")
	}
	m.run("systemctl", "reload", "vifproxyd")
	m.repaired(pids)
}

func (m *machine) hangupRepairs() {
	pids := m.proxies()
	m.flush()
	m.run("kill", "-HUP", m.property("MainPID"))
	m.repaired(pids)
}

func (m *machine) repaired(pids []string) {
	m.served("banking", "bank.example", "shop.example")
	if now := m.proxies(); strings.Join(now, " ") != strings.Join(pids, " ") {
		m.Errorf("proxies are %v, before %v", now, pids)
	}
}

// The best of some restarts, as how long one takes on a busy machine says nothing.
func (m *machine) restartIsQuick() {
	best := time.Hour
	for range 5 {
		start := time.Now()
		m.run("systemctl", "restart", "vifproxyd")
		for m.page("banking", "http://bank.example/") != nil && time.Since(start) < patience {
		}
		best = min(best, time.Since(start))
	}
	m.Logf("from `systemctl restart` to a page: %v", best)
	if best > time.Second {
		m.Error("that is more than a second")
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
	const most = 3.0
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
	// What it hands down.
	for _, pid := range m.proxies() {
		status := m.run("cat", "/proc/"+pid+"/status")
		for _, want := range []string{"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, want+"\n") {
				m.Errorf("a proxy is without %q:\n%s", want, status)
			}
		}
	}
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

// upgradeAndRemove starts with the newer package installed and at work for banking.
func (m *machine) upgradeAndRemove(before, now pkg) {
	m.Helper()
	version := func(want pkg) {
		m.Helper()
		if out := m.run("vifproxyctl", "version"); !strings.Contains(out, want.version) {
			m.Errorf("installed is %s, want %s", out, want.version)
		}
		exe := m.run("sha256sum", "/proc/"+m.property("MainPID")+"/exe", "/usr/bin/vifproxyd")
		if sums := strings.Fields(exe); sums[0] != sums[2] {
			m.Errorf("the old program still runs: %s", exe)
		}
	}
	m.run("dpkg", "--purge", "vifproxy")
	m.install(before.deb)
	m.run("sh", "-c", `echo 'OPTIONS="--log-level=debug"' >> /etc/default/vifproxyd`)
	if dir := m.run("ls", "/etc"); strings.Contains(dir, "vifproxy\n") {
		m.run("sed", "-i", `s|debug"|debug --rules-dir=/etc/vifproxy"|`, "/etc/default/vifproxyd")
	}
	m.run("systemctl", "restart", "vifproxyd")
	version(before)
	m.served("banking", "bank.example", "shop.example")
	m.install(now.deb)
	version(now)
	m.served("banking", "bank.example", "shop.example")
	if out := m.run("cat", "/etc/default/vifproxyd"); !strings.Contains(out, "\nOPTIONS=") {
		m.Errorf("the upgrade took away options:\n%s", out)
	}
	// An upgrade leaves a stopped daemon, disabled by the user, alone.
	m.run("systemctl", "disable", "--now", "vifproxyd")
	m.install(before.deb)
	m.install(now.deb)
	if state := m.property("ActiveState") + " " + m.property("UnitFileState"); state != "inactive disabled" {
		m.Errorf("after an upgrade, the disabled unit is %s", state)
	}
	m.run("systemctl", "enable", "--now", "vifproxyd")
	m.served("banking", "bank.example", "shop.example")

	m.run("dpkg", "--remove", "vifproxy")
	m.nothingLeft()
	if state := m.property("LoadState"); state != "not-found" {
		m.Errorf("after the removal the unit is %s", state)
	}
	m.run("dpkg", "--purge", "vifproxy")
	if out := m.run("find", "/etc", "/usr", "/var", "-xdev", "-path", "/var/log/journal", "-prune", "-o",
		"-name", "*vifproxy*", "-not", "-path", "/etc/vifproxy", "-print"); out != "" {
		m.Errorf("after the purge there is\n%s", out)
	}
	if out := m.run("systemctl", "is-active", "tinyproxy"); out != "active\n" { // the distribution's own
		m.Errorf("tinyproxy.service is %s", out)
	}
}
