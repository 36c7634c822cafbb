package backend

import (
	"slices"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// What was loaded is found, what somebody took away is missing, and looking changes nothing.
func TestInspect(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		look := func(what string, present, missing bool) []string {
			t.Helper()
			before := m.Rules(t)
			found, err := Inspect(t.Context(), m.Kind)
			if err != nil {
				t.Fatal(err)
			}
			if (len(found.Present) > 0) != present || (len(found.Missing) > 0) != missing {
				t.Errorf("%s: %+v", what, found)
			}
			if after := m.Rules(t); after != before {
				t.Errorf("%s: to look has made of\n%s\nthis:\n%s", what, before, after)
			}
			return found.Missing
		}
		look("before", false, true)
		b := open(t, m)
		look("loaded", true, false)
		for _, damage := range map[string][]struct{ command, missing string }{
			"qubes": {
				{"nft flush chain ip qubes custom-input", "the jump in chain custom-input of table ip qubes"},
				{"nft flush chain ip qubes vifproxy-input", "the rule of chain vifproxy-input in table ip qubes"},
				{"nft flush chain ip vifproxy prerouting", "the rules of chain prerouting in table ip vifproxy"},
				{"nft flush chain ip vifproxy input", "the rules of chain input in table ip vifproxy"},
			},
			"nft": {
				{"nft delete table ip vifproxy", "table ip vifproxy"},
				{"nft delete table inet vifproxy", "table inet vifproxy"},
				{"nft flush chain inet vifproxy egress", "the rules of chain egress in table inet vifproxy"},
			},
			"iptables-nft": {
				{m.Iptables + " -F INPUT", `the rule "kept by vifproxyd" in chain INPUT of table ip filter`},
				{m.Iptables + " -I INPUT -j ACCEPT", `the first place for the rule "kept by vifproxyd" in chain INPUT of table ip filter`},
				{"nft delete table ip vifproxy", "table ip vifproxy"},
			},
			"iptables-legacy": {
				{m.Iptables + " -F INPUT", `the rule "kept by vifproxyd" in chain INPUT of iptables-legacy`},
				{m.Iptables + " -I INPUT -j ACCEPT", `the first place for the rule "kept by vifproxyd" in chain INPUT of iptables-legacy`},
			},
		}[m.Name] {
			args := strings.Fields(damage.command)
			Run(t, "", args[0], args[1:]...)
			if missing := look(damage.command, true, true); !slices.Contains(missing, damage.missing) {
				t.Errorf("after %s: missing are %q", damage.command, missing)
			}
			if _, err := b.Sync(t.Context(), firewall.State{}, func() {}); err != nil {
				t.Fatal(err)
			}
			look("repaired after "+damage.command, true, false)
		}
		if err := b.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		look("removed", false, true)
	})
}

func TestDetect(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		InNamespace(t)
		if kind, why, err := Detect(t.Context()); err != nil || kind != m.Kind || why == "" {
			t.Errorf("%s, %q, %v", kind, why, err)
		}
	})
	if _, err := Inspect(t.Context(), "ebtables"); err == nil {
		t.Error("a backend that there is none of was inspected")
	}
}
