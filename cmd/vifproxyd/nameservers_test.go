package main

import (
	"fmt"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// A look-up that is under way asks the name servers that resolv.conf had when it began. So they stay open for a while.
func TestFormerNameServers(t *testing.T) {
	onBoth(t, func(s *site) {
		open := func() (first, second bool) {
			s.Helper()
			_, fence, _ := strings.Cut(s.ruleset(), "inet vifproxy")
			return strings.Contains(fence, "10.139.1.1"), strings.Contains(fence, "10.139.1.2")
		}
		s.resolvers("nameserver 10.139.1.1\noptions attempts:5\n")
		s.rules("work.10.137.0.11", bank)
		s.attach("work", "10.137.0.11")
		s.start()
		s.until("there is one name server", func() error {
			if first, second := open(); !first || second {
				return fmt.Errorf("open are 10.139.1.1: %v, 10.139.1.2: %v", first, second)
			}
			return nil
		})

		// The first answers are lost, so the look-up asks again after 5 s.
		s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
			"add rule ip other in ip saddr 10.139.1.1 counter drop")
		got := make(chan lab.Result, 1)
		go func() { got <- s.Get("work", "http://bank.example/") }()
		s.until("10.139.1.1 is asked", func() error {
			if rules := s.inFirewall("nft", "list table ip other"); strings.Contains(rules, "packets 0 ") {
				return fmt.Errorf("%s", rules)
			}
			return nil
		})
		s.resolvers("nameserver 10.139.1.2\n")
		s.until("the other name server is open", func() error {
			if _, second := open(); !second {
				return fmt.Errorf("it is not")
			}
			return nil
		})
		s.inFirewall("nft", "delete table ip other")
		if r := <-got; r.Status != 200 {
			t.Errorf("the look-up that was under way: %+v", r)
		}
		s.opens("work", "http://bank.example/")
		s.until("the former name server is closed", func() error {
			if first, _ := open(); first {
				return fmt.Errorf("it is open")
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// One name server that does not answer is not noticed. If none does, hosts that were reached before are reached, and others again when
// one answers.
func TestNameServersThatAreSilent(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank, `^shop[0-9]*\.example$`)
		s.start()
		s.attach("work", "10.137.0.11")
		s.opens("work", "http://bank.example/")
		s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
			"add rule ip other in iifname != lo ip saddr 10.139.1.1 udp sport 53 drop")
		for i := range 5 {
			s.opens("work", fmt.Sprintf("http://shop%d.example/", i))
		}
		s.inFirewall("nft", "add rule ip other in iifname != lo ip saddr 10.139.1.2 udp sport 53 counter drop")
		s.until("an answer is too old, and another one does not come", func() error {
			s.opens("work", "http://bank.example/")
			if rules := s.inFirewall("nft", "list table ip other"); strings.Contains(rules, "packets 0 ") {
				return fmt.Errorf("nobody was asked:\n%s", rules)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		if r := s.Get("work", "http://shop99.example/"); r.Status == 200 {
			t.Errorf("without a name server: %+v", r)
		}
		s.inFirewall("nft", "delete table ip other")
		s.opens("work", "http://shop99.example/")
		s.stop()
	})
}
