package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
)

// meddling is what another program may do to our rules. VIF, PORT and GATEWAY are those of the AppVM under test.
type meddling struct{ what, command string }

var ofEither = []meddling{
	{"permission to come in removed", "nft delete element ip vifproxy bindings { VIF . 10.137.0.11 . PORT }"},
	{"permission to come in added", "nft add element ip vifproxy bindings { VIF . 10.137.0.99 . PORT }"},
	{"guard flushed", "nft flush chain ip vifproxy input"},
	{"table deleted", "nft delete table ip vifproxy"},
	{"policy changed", "nft chain ip vifproxy input '{ policy drop; }'"},
	{"foreign rule added", "nft insert rule ip vifproxy input accept"},
}

var ofOne = map[lab.Ruleset][]meddling{
	lab.R42: {
		{"tracking of the port", "nft flush chain ip vifproxy untracked_in"},
		{"permission removed", "nft delete element ip qubes vifproxy { VIF . 10.137.0.11 . PORT }"},
		{"jump deleted", "nft flush chain ip qubes custom-input"},
		{"jump doubled", "nft add rule ip qubes custom-input jump vifproxy-input comment vifproxy"},
		{"jump moved", "nft flush chain ip qubes custom-input; nft add rule ip qubes custom-input counter; " +
			"nft add rule ip qubes custom-input jump vifproxy-input comment vifproxy; " +
			"nft delete rule ip qubes custom-input handle $(nft -a list chain ip qubes custom-input | sed -n 's/.*counter.*handle //p')"},
	},
	lab.R41: {
		{"binding removed", "nft delete element ip vifproxy ports { VIF . 10.137.0.11 }"},
		{"binding added", "nft add element ip vifproxy ports { VIF . 10.137.0.99 : GATEWAY . PORT }; " +
			"nft add element ip vifproxy bindings { VIF . 10.137.0.99 . PORT }"},
		{"chain flushed", "nft flush chain ip vifproxy prerouting"},
		{"rule deleted", "iptables -D INPUT 1"},
		{"rule doubled", "iptables -A INPUT -p tcp --dport 61000:64999 -m conntrack --ctstate DNAT --ctorigdstport 8100 " +
			"-m comment --comment 'kept by vifproxyd' -j ACCEPT"},
		{"rule moved", "iptables -D INPUT 1; iptables -A INPUT -p tcp --dport 61000:64999 -m conntrack --ctstate DNAT " +
			"--ctorigdstport 8100 -m comment --comment 'kept by vifproxyd' -j ACCEPT"},
		{"rule replaced", "iptables -R INPUT 1 -m comment --comment 'kept by vifproxyd' -j DROP"},
		{"tables restored", "f=$(mktemp); iptables-save >$f; iptables-restore <$f; rm $f"},
	},
}

func TestMeddlingIsRepaired(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", bank)
		vif := s.attach("work", "10.137.0.11")
		s.start()
		s.opens("work", "http://bank.example/")
		before := s.show()["work"]
		intact := s.ruleset()
		port := before.Port // at which the AppVM comes in
		if s.way().Used {
			port = lab.ProxyPort
		}
		words := strings.NewReplacer("VIF ", vif+" ", "PORT", fmt.Sprint(port), "GATEWAY", lab.Gateway.String())
		for i, m := range slices.Concat(ofEither, ofOne[s.Ruleset]) {
			if i%4 == 3 { // more often it is a fight, which ends proxies
				time.Sleep(time.Second)
			}
			s.inFirewall("sh", "-ec", words.Replace(m.command))
			s.until(m.what+" is repaired", func() error {
				now := s.ruleset()
				// A table made anew is listed last. In the chains that are not our own, the order matters.
				if sorted(now) != sorted(intact) || !slices.Equal(shared(now), shared(intact)) {
					return fmt.Errorf("now:\n%s\nbefore:\n%s", now, intact)
				}
				return nil
			})
			if err := s.page("work", "http://bank.example/"); err != nil {
				s.Errorf("%s: %v", m.what, err)
			}
		}
		s.undisturbed(before, "http://bank.example/")
		s.stop()
	})
}

// TestTwoManagersDoNotFight deletes the jump as soon as it is there. After some repairs proxies end, and then it is repaired
// once a second at most.
func TestTwoManagersDoNotFight(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.startWork()
	repairs := func() int { return strings.Count(s.daemon.log.String(), "were changed by another program") }
	begin, before := time.Now(), repairs()
	const burst = 6 // and the next one ends the proxies
	deleted := 0
	s.until("some repairs more than a burst were made", func() error {
		if strings.Contains(s.inFirewall("nft", "list", "chain", "ip", "qubes", "custom-input"), "vifproxy-input") {
			s.inFirewall("nft", "flush", "chain", "ip", "qubes", "custom-input")
			deleted++
		}
		s.show() // it answers all the while
		if n := repairs() - before; n < burst+3 {
			return fmt.Errorf("%d repairs", n)
		}
		return nil
	})
	if n, most := repairs()-before, 2*int(time.Since(begin)/time.Second)+burst+2; n > most { // a slow machine makes it fewer
		s.Errorf("%d repairs in %v, want at most %d", n, time.Since(begin), most)
	}
	s.Logf("%d deletions and %d repairs in %v", deleted, repairs()-before, time.Since(begin).Round(time.Millisecond))
	s.untilState("work", control.Running)
	s.until("the bank's page opens", func() error { return s.page("work", "http://bank.example/") })
	s.stop()
}

func TestFlushedRulesAreRepaired(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		pid := s.show()["work"].PID
		intact := s.ruleset()
		if s.Ruleset == lab.R42 {
			s.inFirewall("nft", "flush", "ruleset")
			s.must(s.LoadRules(t.Context()))
		} else {
			for _, args := range []string{"-F", "-X", "-t nat -F", "-t nat -X"} {
				s.inFirewall("iptables", strings.Fields(args)...)
			}
			s.must(s.LoadRules(t.Context()))
		}
		s.until("the rules are as before", func() error {
			if now := s.ruleset(); sorted(now) != sorted(intact) {
				return fmt.Errorf("now:\n%s\nbefore:\n%s", now, intact)
			}
			return nil
		})
		s.opens("work", "http://bank.example/")
		if now := s.show()["work"].PID; now != pid {
			t.Errorf("the proxy was restarted: pid %d, before %d", now, pid)
		}
		s.stop()
	})
}

// shared returns the rules, in their order, of the chains that others have rules in too.
func shared(ruleset string) (rules []string) {
	inside := false
	for line := range strings.Lines(ruleset) {
		inside = strings.Contains(line, "chain custom-input {") || inside && !strings.HasPrefix(line, "\t}")
		if inside || strings.HasPrefix(line, "-A INPUT ") {
			rules = append(rules, line)
		}
	}
	return rules
}

// sorted makes two rulesets comparable whose tables were made in another order.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
