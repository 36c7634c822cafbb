package backend

import (
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// A person sees these rules if a switchboard hands connections over.
func TestRulesBesideASwitchboard(t *testing.T) {
	for _, m := range Machines[:2] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.LoadForeign(t)
			before := m.Rules(t)
			b := open(t, m).(interface {
				firewall.Backend
				UseSwitchboard()
			})
			b.UseSwitchboard()
			Sync(t, b, firewall.State{})
			empty := m.Rules(t)
			state := firewall.State{Shared: TestConfig.ProxyPort, Bindings: []firewall.Binding{Personal, Social, Stubdom,
				BindingOf("lo", "127.238.72.1", "10.138.0.1:61009")}, Guarded: []uint16{61000, 61001}}
			Sync(t, b, state)
			m.Golden(t, "handed-over")

			state.Bindings[0].To = BindingOf("x", "10.0.0.1", "10.138.0.1:61002").To
			state.Bindings[0].Socket++
			state.Guarded = append(state.Guarded, 61002)
			if n := Sync(t, b, state); n != 0 {
				t.Errorf("%d writes for a binding that leads to another socket", n)
			}

			// Another program has been at work meanwhile, and a state that changes no rule is written.
			whole := m.Rules(t)
			m.Shell(t, "nft flush chain inet vifproxy reach; nft delete table ip vifproxy")
			state.Bindings[0].Socket++
			Sync(t, b, state)
			if got := m.Rules(t); Sorted(got) != Sorted(whole) {
				t.Errorf("not repaired by a write that changes no rule:\n%s", Diff(whole, got))
			}

			Sync(t, b, firewall.State{Shared: TestConfig.ProxyPort})
			if got := m.Rules(t); Sorted(got) != Sorted(empty) {
				t.Errorf("after all bindings are gone:\n%s", Diff(empty, got))
			}
			if err := b.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := m.Rules(t); Sorted(got) != Sorted(before) {
				t.Errorf("after Remove:\n%s", Diff(before, got))
			}
		})
	}
}

// A backend of another kind is refused, because its rules would stay those of nat.
func TestSwitchboardNeedsABackendOfOurs(t *testing.T) {
	if _, err := WithSwitchboard(t.Context(), Quiet, foreignBackend{}, nil, TestConfig); err == nil {
		t.Error("taken")
	}
}

type foreignBackend struct{ firewall.Backend }

func (foreignBackend) String() string { return "another" }
