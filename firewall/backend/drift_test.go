package backend

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

const admissionWords = "-p tcp --dport 61000:64999 -m conntrack --ctstate DNAT --ctorigdstport 8100 " +
	"-m comment --comment 'kept by vifproxyd' -j ACCEPT"

// Whatever somebody does to our rules, the next Sync sets it right, touches nothing else and is then at rest.
func TestDrift(t *testing.T) {
	sabotage := map[string][]string{
		"nft": {
			"nft delete table ip vifproxy",
			"nft flush table ip vifproxy",
			"nft flush chain ip vifproxy input",
			"nft flush set ip vifproxy bindings",
			"nft flush map ip vifproxy ports",
			"nft add element ip vifproxy bindings '{ vif9.0 . 10.137.0.99 . 61000 }'",
			"nft add element ip vifproxy ports '{ vif9.0 . 10.137.0.99 : 10.138.0.1 . 61000 }'",
			`nft delete element ip vifproxy ports '{ vif1.0 . 10.137.0.11 }'
			 nft add element ip vifproxy ports '{ vif1.0 . 10.137.0.11 : 10.138.0.1 . 61001 }'`,
			"nft insert rule ip vifproxy input accept",
			"nft add rule ip vifproxy input drop",
			`handle=$(nft -a list chain ip vifproxy input | sed -n 's/.*reject.*handle //p')
			 nft replace rule ip vifproxy input handle $handle accept`,
			"nft chain ip vifproxy input '{ policy drop; }'",
			"nft add table ip vifproxy '{ flags dormant; }'",
			"nft add chain ip vifproxy more",
			"nft rename chain ip vifproxy input other",
			"nft add set ip vifproxy more '{ type mark; }'",
			"nft delete table inet vifproxy",
			"nft flush chain inet vifproxy egress",
			"nft insert rule inet vifproxy egress accept",
			"nft chain inet vifproxy output '{ policy drop; }'",
			"nft add table inet vifproxy '{ flags dormant; }'",
			"nft flush set inet vifproxy owned4",
			"nft add element inet vifproxy wide6 '{ 1888026636 . ::/0 }'",
			"nft add element inet vifproxy owned4 '{ 1888026636 . 192.168.1.0/24 . 22 }'",
			"nft add element inet vifproxy owned6 '{ 1888026635-1888026636 . ::/0 . 0-442 }'",
			"nft add element inet vifproxy holes6 '{ fd00::/8 . 0-65535 }'",
			"nft add element inet vifproxy ports '{ 22 }'",
			"nft delete element inet vifproxy ports '{ 443 }'",
			"nft add element inet vifproxy resolvers4 '{ 10.139.1.3 }'",
			"nft flush set inet vifproxy resolvers6",
			"nft add element ip vifproxy ports '{ * : 10.138.0.1 . 61000 }'",
			`nft -s list table ip vifproxy > $TMP/rules
			 nft delete table ip vifproxy
			 nft -f $TMP/rules
			 nft delete element ip vifproxy ports '{ vif1.0 . 10.137.0.11 }'`,
		},
		"qubes": {
			"nft flush chain ip qubes vifproxy-input",
			"nft add rule ip qubes vifproxy-input accept",
			"nft flush set ip qubes vifproxy",
			"nft add element ip qubes vifproxy '{ vif9.0 . 10.137.0.99 . 61000 }'",
			"nft insert rule ip qubes custom-input jump vifproxy-input comment '\"vifproxy\"'",
			"nft add rule ip qubes custom-input jump vifproxy-input comment '\"vifproxy\"'",
			`handle=$(nft -a list chain ip qubes custom-input | sed -n 's/.*vifproxy-input.*handle //p')
			 nft delete rule ip qubes custom-input handle $handle`,
			`handle=$(nft -a list chain ip qubes custom-input | sed -n 's/.*vifproxy-input.*handle //p')
			 nft delete rule ip qubes custom-input handle $handle
			 nft delete chain ip qubes vifproxy-input
			 nft delete set ip qubes vifproxy
			 nft delete table ip vifproxy`,
			// A set that only looks like ours.
			`handle=$(nft -a list chain ip qubes custom-input | sed -n 's/.*vifproxy-input.*handle //p')
			 nft delete rule ip qubes custom-input handle $handle
			 nft delete chain ip qubes vifproxy-input
			 nft delete set ip qubes vifproxy
			 nft add set ip qubes vifproxy '{ type ipv4_addr; flags interval; }'
			 nft add element ip qubes vifproxy '{ 10.0.0.0/8 }'`,
		},
		"iptables": {
			"iptables -D INPUT 1",
			"iptables -I INPUT " + admissionWords,
			"iptables -A INPUT " + admissionWords,
			"iptables -D INPUT 1; iptables -A INPUT " + admissionWords,
			"iptables -R INPUT 1 -p tcp -m comment --comment 'kept by vifproxyd' -j ACCEPT",
			"iptables -I INPUT -m comment --comment 'kept by vifproxyd' -j DROP",
			"iptables -I INPUT -j ACCEPT; iptables -D INPUT -j ACCEPT; iptables -D INPUT 1",
			"iptables-save > $TMP/saved; iptables -D INPUT 1; iptables -F OUTPUT; iptables -t nat -F OUTPUT; iptables-restore < $TMP/saved",
		},
	}
	dir := t.TempDir()
	OnEach(t, func(t *testing.T, m Machine) {
		tmp, err := os.MkdirTemp(dir, "") // Shell reads "iptables" in the name of a subtest's own as the program
		Must(t, err)
		m.Shell(t, m.Users())
		b := open(t, m)
		want := firewall.State{Bindings: []firewall.Binding{Personal, Social}, Fence: Wide()}
		Sync(t, b, want)
		good := Sorted(m.Rules(t))
		kind, _, _ := strings.Cut(m.Name, "-")
		for _, kind := range slices.Compact([]string{"nft", kind}) {
			for _, act := range sabotage[kind] {
				m.Shell(t, strings.ReplaceAll(act, "$TMP", tmp))
				bad := Sorted(m.Rules(t))
				replaced := strings.Contains(act, "delete table") || strings.Contains(act, "-D INPUT")
				if bad == good && !replaced {
					t.Fatalf("%s: changed nothing", act)
				}
				if n := Sync(t, b, want); n == 0 && bad != good && kind != "iptables" {
					t.Errorf("%s: no writes", act)
				}
				if got := Sorted(m.Rules(t)); got != good {
					t.Fatalf("%s: not repaired:\n%s", act, Diff(good, got))
				}
				if n := Sync(t, b, want); n != 0 {
					t.Errorf("%s: %d writes after it was repaired", act, n)
				}
			}
		}
	})
}

// Everything is flushed and the machine's own rules are loaded again, as when Qubes' services restart.
func TestFlushAndReload(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		b := open(t, m)
		Bind(t, b, Personal, Social)
		good := Sorted(m.Rules(t))
		if m.Kind == "nftables" {
			m.Shell(t, "nft flush ruleset")
		} else {
			m.Shell(t, "iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X")
		}
		Bind(t, b, Personal, Social) // Qubes' table is not there: it must not be made
		m.LoadForeign(t)
		Bind(t, b, Personal, Social)
		if got := Sorted(m.Rules(t)); got != good {
			t.Errorf("not as before:\n%s", Diff(good, got))
		}
		if n := Bind(t, b, Personal, Social); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}
	})
}

// The same bindings give the same rules after any history.
func TestHistory(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		random := rand.New(rand.NewPCG(1, 2))
		all := make([]firewall.Binding, 6)
		pick := func() (some []firewall.Binding) {
			for i := range all {
				if random.IntN(2) == 0 {
					vif, addr := fmt.Sprintf("vif%d.0", i), fmt.Sprintf("10.137.0.%d", i+1)
					some = append(some, BindingOf(vif, addr, fmt.Sprintf("10.138.0.1:%d", 61000+random.IntN(50))))
				}
			}
			return some
		}
		b := open(t, m)
		for range 10 {
			switch random.IntN(6) {
			case 0:
				b = open(t, m) // the last daemon has crashed
			case 1:
				if err := b.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want := pick()
			Bind(t, b, want...)
			if n := Bind(t, b, want...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			got := Sorted(m.Rules(t))
			Bind(t, open(t, m), want...)
			if fresh := Sorted(m.Rules(t)); got != fresh {
				t.Fatalf("rules depend on history:\n%s", Diff(fresh, got))
			}
		}
	})
}
