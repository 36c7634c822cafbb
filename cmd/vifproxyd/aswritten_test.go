package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
)

// Lines are shown as they stand in the file, never as they are compiled.
func TestLinesAreShownAsTheyStand(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", "#: format domains", "Bank.example.   # the bank", "  *.Bank.example", "git.example:8443 # ours",
			"#:  egress  192.168.1.5:8443", "192.168.1.5", "co.uk", "*.co.uk")
		s.rules("old.10.137.0.12", "^bank\\.example   # anchored at one side", "static.bank.example")
		s.attach("work", "10.137.0.11")
		s.attach("old", "10.137.0.12")
		s.start()
		s.untilState("work", control.Running)
		s.untilState("old", control.Running)
		work, old := filepath.Join(s.rulesDir(), "work.10.137.0.11"), filepath.Join(s.rulesDir(), "old.10.137.0.12")
		for _, c := range []struct {
			wants string
			verb  []string
		}{
			{work + ":2: Bank.example.   # the bank\n", []string{"explain", "work", "https://bank.example/"}},
			{work + ":3: *.Bank.example\n", []string{"explain", "work", "https://www.bank.example/"}},
			{work + ":4: git.example:8443 # ours\n", []string{"explain", "work", "https://git.example:8443/"}},
			{work + ":5: #:  egress  192.168.1.5:8443\n", []string{"explain", "work", "https://192.168.1.5:8443/"}},
			{old + ":1: ^bank\\.example   # anchored at one side\n", []string{"explain", "old", "bank.example"}},
			{"for a time: shop.example\n", []string{"allow", "work", "shop.example", "--for=1h"}},
			{work + ":9: new.example\n", []string{"allow", "work", "new.example"}},
			{"    Bank.example.   # the bank\n", []string{"deny", "work", "bank.example"}},
			{work + ":7: *.co.uk: admits every host below co.uk", []string{"show"}},
			{old + ":1: ^bank\\.example   # anchored at one side: matches the beginning", []string{"show", "old"}},
		} {
			said, errs, _ := s.ctl(c.verb...)
			if said += errs; !strings.Contains(said, c.wants) {
				t.Errorf("%v says\n%swant %s", c.verb, said, c.wants)
			}
			if strings.Contains(said, `\.?$`) || strings.Contains(said, "[-_0-9A-Za-z]") {
				t.Errorf("%v shows a compiled line:\n%s", c.verb, said)
			}
		}
		s.stop()
	})
}

// Where no proxy serves, no verb says that a change is in force, or that a request passes.
func TestNothingIsInForceWhereNobodyIsServed(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.11", "#: format domains", "bank.example")
		s.rules("away.10.137.0.12", "#: format domains", "bank.example")
		s.attach("work", "10.137.0.11")
		s.start()
		s.untilState("work", control.Running)
		if said := s.on(0, "allow", "work", "one.example"); !strings.Contains(said, "in force after") {
			t.Errorf("allow of a served AppVM says\n%s", said)
		}
		s.on(0, "stop", "work")
		for vm, want := range map[string]string{
			"work": "serves nobody: the proxy of work is stopped; start it with `vifproxyctl start work`",
			"away": "serves nobody yet: no AppVM with the address 10.137.0.12 is connected",
		} {
			for _, verb := range [][]string{{"allow", vm, "shop.example"}, {"allow", vm, "pay.example", "--for=1h"},
				{"deny", vm, "shop.example", "pay.example"}} {
				said := s.on(0, verb...)
				if !strings.Contains(said, want) || strings.Contains(said, "in force") || strings.Contains(said, ": passes") {
					t.Errorf("%v says\n%swant %s", verb, said, want)
				}
			}
			if said := s.on(fails, "explain", vm, "bank.example"); strings.Contains(said, ": passes") {
				t.Errorf("explain says\n%s", said)
			}
		}
		if said := s.on(0, "deny", "work", "one.example"); strings.Contains(said, "remedy") {
			t.Errorf("deny offers what it took back:\n%s", said)
		}
		s.stop()
	})
}

// A last line without its end, as many programs and `check --fix` leave it, is in force when update returns.
func TestUpdateWaitsForALastLineWithoutEnd(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		s.must(writeFile(filepath.Join(s.rulesDir(), "work.10.137.0.11"), []byte("#: format domains\nbank.example\nshop.example"), 0o644))
		s.on(0, "update")
		s.opens("work", "http://shop.example/")
		s.must(writeFile(filepath.Join(s.rulesDir(), "work.10.137.0.11"), []byte("#: format domains\nbank.example"), 0o644))
		s.on(0, "update")
		s.refuses("work", "http://shop.example/")
		s.stop()
	})
}

// Where one AppVM is connected without a rule file, the command that makes the first one is said, and it works.
func TestTheFirstRuleFile(t *testing.T) {
	onBoth(t, func(s *site) {
		s.rules("work.10.137.0.12", bank)
		s.attach("work", "10.137.0.12")
		s.attach("banking", "10.137.0.11")
		s.start()
		s.says("allow banking bank.example *.bank.example", "connected without one is 10.137.0.11, on vif",
			"if that is banking, `vifproxyctl allow banking.10.137.0.11 bank.example \\*.bank.example`")
		s.on(0, "allow", "banking.10.137.0.11", "bank.example", "*.bank.example")
		s.opens("banking", "https://bank.example/", "https://www.bank.example/")
		content, err := os.ReadFile(filepath.Join(s.rulesDir(), "banking.10.137.0.11"))
		s.must(err)
		if want := "#: format domains\nbank.example\n*.bank.example\n"; string(content) != want {
			t.Errorf("the first file is %q, want %q", content, want)
		}
		s.stop()
	})
}
