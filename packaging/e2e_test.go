//go:build e2e

package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// marker tells a VM of Qubes OS.
const marker = "/usr/share/qubes/marker-vm"

// serviceOn does what qubes-sysinit.service does for a service that is on.
var serviceOn = map[string]string{
	"/etc/tmpfiles.d/qubes-service.conf": "d /run/qubes-service\nf /run/qubes-service/vifproxy\n",
}

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
		if state := m.property("ActiveState") + " " + m.property("ConditionResult"); state != "inactive no" {
			t.Errorf("without the service flag: the unit is %s, want it inactive, its condition met: no", state)
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
	m.newRoot(serviceOn)
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
	m.step("switchboard", (*machine).switchboardIsAttachedOnce)
	m.step("reload", (*machine).reloadRepairs)
	m.step("verbs", (*machine).verbsWork)
	m.step("restart", (*machine).restartIsQuick)
	m.step("watchdog", (*machine).watchdogRestarts)
	m.step("hardened", (*machine).unitIsHardened)
	m.step("rights", (*machine).needsRights)
	m.step("crash", (*machine).crashIsCleanedUp)
	m.step("removed files", (*machine).removedFilesComeBack)
	m.step("stopped journal", (*machine).stoppedJournalHoldsUpNothing)
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
	m.newRoot(serviceOn)
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
	m.step("confinement", (*machine).confines)
	m.step("reload", (*machine).reloadRepairs)
	m.step("hangup", (*machine).hangupRepairs)
	m.step("crash", (*machine).crashIsCleanedUp)
	m.step("legacy", func(m *machine) {
		m.run("systemctl", "stop", "vifproxyd")
		m.nothingLeft()
		m.run("update-alternatives", "--set", "iptables", "/usr/sbin/iptables-legacy")
		m.run("iptables-legacy", "-w", "-A", "INPUT", "-i", "vif+", "-j", "REJECT")
		m.run("systemctl", "start", "vifproxyd")
		log := m.run("journalctl", "--boot", "--output=cat", "--unit=vifproxyd")
		if !strings.Contains(log, "only root can use iptables-legacy, with CAP_NET_RAW (use iptables-nft, on Debian by ") {
			m.Errorf("the journal: %s", log)
		}
		m.drop("run-as-root.conf", m.run("cat", "/usr/share/doc/vifproxy/examples/run-as-root.conf"))
		m.run("systemctl", "restart", "vifproxyd")
		m.served("banking", "bank.example", "shop.example") // the lab's rules, of the other variant, refuse too
		if text := m.run("iptables-legacy", "-w", "-S", "INPUT"); !strings.Contains(text, "kept by vifproxyd") {
			m.Errorf("rules: %s", text)
		}
		m.run("iptables-legacy", "-w", "-F", "INPUT")
		m.run("systemctl", "stop", "vifproxyd")
		m.nothingLeft()
		m.undrop("run-as-root.conf")
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
	m.drop("root.conf", "[Service]\nDynamicUser=no\nUser=root\n") // as it once was
	m.run("systemctl", "restart", "vifproxyd")
	version(before)
	m.served("banking", "bank.example", "shop.example")
	m.undrop("root.conf")
	m.install(now.deb)
	version(now)
	m.served("banking", "bank.example", "shop.example")
	// A person's no outlives an upgrade, and a removal takes its record away.
	m.run("vifproxyctl", "stop", "banking")
	m.install(before.deb)
	m.install(now.deb)
	version(now)
	m.staysStopped("banking")
	m.run("vifproxyctl", "start", "banking")
	m.served("banking", "bank.example", "shop.example")
	m.run("vifproxyctl", "stop", "banking")
	m.run("dpkg", "--remove", "vifproxy")
	m.install(now.deb)
	m.run("systemctl", "start", "vifproxyd")
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
	if out := m.run("find", "/etc", "/usr", "/var", "-ignore_readdir_race", "-xdev", "-path", "/var/log/journal", "-prune", "-o",
		"-name", "*vifproxy*", "-not", "-path", "/etc/vifproxy", "-print"); out != "" {
		m.Errorf("after the purge there is\n%s", out)
	}
	if out := m.run("systemctl", "is-active", "tinyproxy"); out != "active\n" { // the distribution's own
		m.Errorf("tinyproxy.service is %s", out)
	}
}
