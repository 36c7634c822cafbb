package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// doctor runs the verb in the firewall VM.
func (s *site) doctor() string {
	s.Helper()
	out, _ := s.Command(s.Context(), filepath.Join(programs, "vifproxyctl"), "--socket="+s.socket(), "doctor").Output()
	return string(out)
}

// saysNoMore waits until doctor does not print a text any more.
func (s *site) saysNoMore(text string) {
	s.Helper()
	s.until("doctor has nothing more of "+text, func() error {
		if out := s.doctor(); strings.Contains(out, text) {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// What is of one kind is one line, and a file for an address that the next disposable has is not advised.
func TestDoctorSumsUp(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("work.10.137.0.11", bank)
	s.attach("work", "10.137.0.11")
	for i := range 10 {
		s.attach(fmt.Sprintf("disp%d", i), fmt.Sprintf("10.138.7.%d", i))
	}
	s.attach("one", "10.137.0.21")
	s.attach("two", "10.137.0.22")
	s.start()
	s.untilState("work", control.Running)
	s.says("doctor", "note   AppVMs       10 disposables have no rule file, and so no proxy; the next ones have other addresses: 10.138.7.0 on ",
		"note   AppVMs       2 AppVMs have no rule file, and so no proxy: 10.137.0.21 on ")
	out := s.doctor()
	if n := strings.Count(out, " have no rule file"); n != 2 || strings.Contains(out, "NAME.10.138") {
		t.Errorf("%d lines of AppVMs without a rule file:\n%s", n, out)
	}
	s.ctl("allow", "one.10.137.0.21", "bank.example") // the remedy
	s.says("doctor", "10.137.0.22 on "+s.vifs["two"]+" has no rule file, and so no proxy")

	// One address on two qubes, far from one another as no HVM and its stub domain are, or perhaps that.
	s.domid += 3
	s.attach("again", "10.137.0.11")
	s.says("doctor", "wrong  AppVMs       one address on two qubes, which have one list and one proxy: 10.137.0.11 on "+s.vifs["work"]+", "+s.vifs["again"])
	s.detach("again")
	s.saysNoMore("one address on two qubes")
	s.attach("hvm", "10.137.0.30")
	s.attach("hvm", "10.137.0.30")
	s.says("doctor", "note   AppVMs       10.137.0.30 on ", "an HVM with its stub domain, or two qubes of one address")
	s.stop()
}

// Routes that lead nowhere, or where proxies may not leave, are findings, and each remedy ends its finding.
func TestDoctorKnowsTheWaysOut(t *testing.T) {
	t.Parallel()
	s := withTunnel(t)
	s.opens("work", "http://bank.example/")
	s.says("doctor", "ok     routes       what proxies send leaves by wg0\n")
	s.inFirewall("nft", "add", "rule", "ip", "qubes", "custom-forward", "oifname", "eth0", "drop")
	s.says("doctor", "note   leave        proxies may not leave by eth0, where what AppVMs send is dropped by table ip qubes, chain custom-forward")
	s.inFirewall("ip", "link", "set", "wg0", "down")
	s.says("doctor", "wrong  leave        routes lead to eth0, by which proxies may not leave: what AppVMs send there is dropped by table ip qubes, chain custom-forward",
		"start the VPN whose kill switch that is")
	s.tunnelUp()
	s.saysNoMore("wrong  leave")
	s.opens("work", "http://bank.example/")

	s.inFirewall("ip", "route", "flush", "0/0")
	s.says("doctor", "wrong  routes       no route leads to the internet: there is no default route")
	s.inFirewall("ip", "route", "add", "unreachable", "default")
	s.says("doctor", "wrong  routes       no route leads to the internet: a route refuses it (no route to host)")
	s.inFirewall("ip", "route", "del", "unreachable", "default")
	s.tunnelUp()
	s.saysNoMore("wrong  routes")
	s.stop()

	s.start("--egress-interface=wg0,wg1")
	s.says("doctor", "wrong  leave        there is no interface wg1, by which proxies are to leave (--egress-interface)")
	s.inFirewall("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "eth0", "metric", "100")
	s.inFirewall("ip", "link", "set", "wg0", "down")
	s.says("doctor", "wrong  leave        wg0 is down, and proxies are to leave by it (--egress-interface)",
		"wrong  leave        routes lead to eth0, and proxies may leave by wg0, wg1 only (--egress-interface)")
	s.tunnelUp()
	s.saysNoMore("wg0 is down")
	s.stop()
}

// Rules of routing that are about AppVMs alone lead their proxies past a tunnel, which doctor tells.
func TestDoctorComparesRoutes(t *testing.T) {
	t.Parallel()
	s := withTunnel(t)
	s.inFirewall("sysctl", "-qw", "net.ipv4.ip_forward=1")
	s.opens("work", "http://bank.example/")
	s.saysNoMore("by another interface than what its proxy sends")
	s.inFirewall("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "eth0", "table", "77")
	s.inFirewall("ip", "rule", "add", "from", "10.137.0.0/16", "lookup", "77")
	s.says("doctor", "note   routes       what an AppVM sends leaves by another interface than what its proxy sends: work (eth0, proxy: wg0)")
	for _, kind := range []string{"unreachable", "blackhole", "prohibit"} {
		s.inFirewall("ip", "route", "replace", kind, "default", "table", "77")
		s.says("doctor", "note   routes       routes refuse what an AppVM sends, and let pass what its proxy sends: work (proxy: wg0)")
	}
	s.inFirewall("ip", "rule", "del", "from", "10.137.0.0/16")
	s.saysNoMore("let pass what its proxy sends")
	s.stop()

	s.start("--egress-interface=wg0")
	s.inFirewall("ip", "rule", "add", "from", "10.137.0.0/16", "lookup", "77")
	s.saysNoMore("let pass what its proxy sends")
	s.stop()
}

// Seen from another network namespace nothing is missing: it is elsewhere.
func TestDoctorKnowsItsNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWork()
	out, err := exec.CommandContext(t.Context(), filepath.Join(programs, "vifproxyctl"), "--socket="+s.socket(), "doctor").Output()
	if !strings.Contains(string(out), "wrong  namespace    doctor runs in another network namespace than vifproxyd") ||
		strings.Contains(string(out), "missing is") {
		t.Fatalf("%v:\n%s", err, out)
	}
	_, remedy, _ := strings.Cut(string(out), "→ nsenter ")
	remedy, _, _ = strings.Cut(remedy, "vifproxyctl doctor\n")
	words := append(strings.Fields(remedy), filepath.Join(programs, "vifproxyctl"), "--socket="+s.socket(), "doctor")
	out, err = exec.CommandContext(t.Context(), "nsenter", words...).Output()
	if strings.Contains(string(out), "namespace") || !strings.Contains(string(out), "everything is in place") {
		t.Errorf("%v: %v:\n%s", words, err, out)
	}
	s.stop()
}
