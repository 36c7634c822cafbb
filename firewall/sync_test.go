package firewall

import (
	"testing"
)

var (
	personal = binding("vif1.0", "10.137.0.11", "10.138.0.1:61000")
	social   = binding("vif2.0", "10.137.0.12", "10.138.0.1:61001")
	stubdom  = binding("vif3.0", "10.137.0.12", "10.138.0.1:61001") // the same AppVM on its other vif
)

// What a person sees with nft list ruleset or iptables -S. Both variants of iptables print the same.
func TestRules(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		before := m.rules(t)
		b := m.open(t)
		empty := m.rules(t)
		m.golden(t, "empty")
		if n := bind(t, b); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}

		if n := bind(t, b, personal, social, stubdom); n == 0 {
			t.Error("no writes reported for three new bindings")
		}
		m.golden(t, "bound")
		if n := bind(t, b, stubdom, personal, social); n != 0 {
			t.Errorf("%d writes for the same bindings in another order", n)
		}

		moved := personal
		moved.To = binding("x", "10.0.0.1", "10.138.0.1:61002").To
		if n := bind(t, b, moved, stubdom); n == 0 {
			t.Error("no writes reported for a moved and a removed binding")
		}
		m.golden(t, "moved")

		bind(t, b)
		if got := m.rules(t); got != empty {
			t.Errorf("after all bindings are gone:\n%s", diff(empty, got))
		}
		for range 2 {
			if err := b.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := m.rules(t); got != before {
				t.Errorf("after Remove:\n%s", diff(before, got))
			}
		}
		bind(t, b, personal)
		bind(t, b)
		if got := m.rules(t); got != empty {
			t.Errorf("Sync after Remove:\n%s", diff(empty, got))
		}
	})
}
