package backend

import (
	"testing"

	. "vifproxy/firewall/firewalltest"
)

// What a person sees with nft list ruleset or iptables -S. Both variants of iptables print the same.
func TestRules(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		before := m.Rules(t)
		b := open(t, m)
		empty := m.Rules(t)
		m.Golden(t, "empty")
		if n := Bind(t, b); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}

		if n := Bind(t, b, Personal, Social, Stubdom); n == 0 {
			t.Error("no writes reported for three new bindings")
		}
		m.Golden(t, "bound")
		if n := Bind(t, b, Stubdom, Personal, Social); n != 0 {
			t.Errorf("%d writes for the same bindings in another order", n)
		}

		moved := Personal
		moved.To = BindingOf("x", "10.0.0.1", "10.138.0.1:61002").To
		if n := Bind(t, b, moved, Stubdom); n == 0 {
			t.Error("no writes reported for a moved and a removed binding")
		}
		m.Golden(t, "moved")

		Bind(t, b)
		if got := m.Rules(t); got != empty {
			t.Errorf("after all bindings are gone:\n%s", Diff(empty, got))
		}
		for range 2 {
			if err := b.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := m.Rules(t); got != before {
				t.Errorf("after Remove:\n%s", Diff(before, got))
			}
		}
		Bind(t, b, Personal)
		Bind(t, b)
		if got := m.Rules(t); got != empty {
			t.Errorf("Sync after Remove:\n%s", Diff(empty, got))
		}
	})
}
