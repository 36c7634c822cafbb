package main

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/control"
)

// explained has a request explained, and checks exit status and words. What takes longer than tryBound of the supervisor has
// other words.
func (s *site) explained(status int, vm, request string, wants ...string) {
	s.Helper()
	var said string
	var got int
	s.until("it is known what becomes of "+request, func() error {
		out, errs, code := s.ctl("explain", vm, request)
		said, got = out+errs, code
		if strings.Contains(said, "have not answered in time") { // as on a busy machine
			return errors.New(said)
		}
		return nil
	})
	if got != status {
		s.Errorf("explain %s %s: exit status %d, want %d:\n%s", vm, request, got, status, said)
	}
	for _, want := range wants {
		if !strings.Contains(said, want) {
			s.Errorf("%s to %s is explained by\n%s, want %s", vm, request, said, want)
		}
	}
}

// Exit statuses of explain.
const (
	passes    = 0
	isRefused = 1
	fails     = 5
)

// A request is tried, so what explain says is so.
func TestExplainTries(t *testing.T) {
	onBoth(t, func(s *site) {
		s.Host("gone.example")
		s.Host("nowhere.example")
		s.Host("own.example", netip.MustParseAddr("127.0.0.1"))
		s.Host("empty.example", netip.MustParseAddr("198.18.0.9"))
		s.rules("work.10.137.0.11", bank, `^gone\.example$`, `^198\.51\.100\.77$`, "#: egress 10.77.0.0/16", `^lan\.example$`)
		s.rules("other.10.137.0.12", bank)
		s.start()
		s.attach("work", "10.137.0.11")
		s.untilState("work", control.Running)
		before, err := s.Reached("bank.example", 443)
		s.must(err)
		s.explained(passes, "work", "https://bank.example/", "CONNECT bank.example:443 by work: passes", "try           connected in ")
		s.explained(passes, "work", "http://bank.example/", "GET http://bank.example/ by work: passes", "nothing was sent")
		if after, err := s.Reached("bank.example", 443); err != nil || after != before+1 {
			t.Errorf("port 443 was reached %d times, before %d (%v)", after, before, err)
		}
		s.explained(isRefused, "work", "https://shop.example/", "is refused", "no line permits it", "tinyproxy answers 403",
			"remedy        vifproxyctl allow work shop.example (tried: it passes then)")
		s.explained(isRefused, "work", "https://nowhere.example/", "with a line for nowhere.example it fails all the same: the name does not resolve")
		s.explained(isRefused, "work", "https://own.example/", "with a line for own.example it fails all the same")
		s.refuses("work", "https://shop.example/") // the AppVM, meanwhile and after that
		s.explained(fails, "work", "https://gone.example/", "by work: fails", "the name does not resolve: the name servers know no such name")
		s.explained(fails, "other", "https://bank.example/", "by other: fails", "the AppVM is not connected", "connected in")
		s.ctl("stop", "work")
		s.explained(fails, "work", "https://bank.example/", "by work: fails", "it is stopped: vifproxyctl start work")
		s.ctl("start", "work") // returns when it runs
		s.explained(passes, "work", "https://bank.example/")
		if denied, _, _ := s.ctl("denied"); strings.Contains(denied, "nowhere.example") {
			t.Errorf("what the daemon asked itself is told as the AppVM's:\n%s", denied)
		}
		if bindings := s.inFirewall("nft", "list", "set", "ip", "vifproxy", "bindings"); strings.Contains(bindings, `"lo"`) {
			t.Errorf("a binding of a trial is left:\n%s", bindings)
		}
		s.stop()
	})
}

// What nobody answers, what the template turns away, and what is full, is told as such.
func TestExplainTellsWhatFails(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.2.11", bank)
		s.templateWith("MaxClients 2")
		s.start()
		s.attach("work", "10.137.2.11")
		s.untilState("work", control.Running)
		s.explained(passes, "work", "https://bank.example/")
		s.inFirewall("nft", "add table inet other; add chain inet other out { type filter hook output priority 0; }; "+
			"add rule inet other out tcp dport 443 drop")
		s.explained(fails, "work", "https://bank.example/", "no address has answered within ", "another program's rule")
		s.inFirewall("nft", "delete table inet other")
		for range 2 {
			s.tunnel("work", "bank.example:443")
		}
		s.explained(fails, "work", "https://bank.example/", "it is full: 2 connections are open, and MaxClients is 2")
		s.templateWith("BasicAuth user password")
		s.update()
		s.explained(isRefused, "work", "https://bank.example/", "BasicAuth wants a user and a password")
		s.stop()
	})
}
