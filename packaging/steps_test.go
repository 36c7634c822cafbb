//go:build e2e

package packaging

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

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

// The unit's own restrictions leave the daemon what it confines proxies with. What a cgroup can limit depends on the
// machine that this one runs on.
func (m *machine) confines() {
	var vms []struct {
		Confinement struct{ Applied, Missing []string }
	}
	if out := m.run("vifproxyctl", "show", "--json"); json.Unmarshal([]byte(out), &vms) != nil || len(vms) != 1 {
		m.Fatalf("show --json: %s", out)
	}
	c := vms[0].Confinement
	applied := strings.Join(c.Applied, " ")
	if applied != "uid capabilities no_new_privs rlimits seccomp landlock cgroup" {
		m.Errorf("in force: %s; missing: %q", applied, c.Missing)
	}
	for _, missing := range c.Missing {
		if !strings.HasPrefix(missing, "cgroup: of the controllers") {
			m.Errorf("missing: %s", missing)
		}
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
		for _, want := range []string{
			"CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
		} {
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
