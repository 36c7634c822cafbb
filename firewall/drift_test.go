package firewall

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

const admissionWords = "-p tcp --dport 61000:64999 -m conntrack --ctstate DNAT --ctorigdstport 8100 " +
	"-m comment --comment 'kept by vifproxyd' -j ACCEPT"

// users are rules of a person, which must survive everything.
func (m machine) users() string {
	switch m.name {
	case "qubes":
		return `
			nft add rule ip qubes custom-input tcp dport 22 accept comment '"vifproxy"'
			nft add rule ip qubes custom-input jump custom-forward comment '"mine"'
			nft add set ip qubes mine '{ type ipv4_addr; }'`
	case "nft":
		return `
			nft add table ip mine
			nft add chain ip mine input '{ type filter hook input priority 0; }'
			nft add rule ip mine input tcp dport 22 accept comment '"vifproxy"'`
	}
	return `
		iptables -N MINE
		iptables -A MINE -m comment --comment vifproxy -j ACCEPT
		iptables -I INPUT -p tcp --dport 22 -m comment --comment "vifproxy -j VIFPROXY" -j MINE
		iptables -A INPUT -p tcp --dport 23 -m comment --comment vifproxy -j ACCEPT
		iptables -A INPUT -p tcp --dport 24 -m comment --comment "not kept by vifproxyd" -j ACCEPT
		iptables -t nat -A PREROUTING -p tcp --dport 22 -m comment --comment vifproxy -j ACCEPT`
}

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
	tmp := t.TempDir()
	onEach(t, func(t *testing.T, m machine) {
		m.shell(t, m.users())
		b := m.open(t)
		want := State{Bindings: []Binding{personal, social}, Fence: wide()}
		syncState(t, b, want)
		good := sorted(m.rules(t))
		kind, _, _ := strings.Cut(m.name, "-")
		for _, kind := range slices.Compact([]string{"nft", kind}) {
			for _, act := range sabotage[kind] {
				m.shell(t, strings.ReplaceAll(act, "$TMP", tmp))
				bad := sorted(m.rules(t))
				replaced := strings.Contains(act, "delete table") || strings.Contains(act, "-D INPUT")
				if bad == good && !replaced {
					t.Fatalf("%s: changed nothing", act)
				}
				if n := syncState(t, b, want); n == 0 && bad != good && kind != "iptables" {
					t.Errorf("%s: no writes", act)
				}
				if got := sorted(m.rules(t)); got != good {
					t.Fatalf("%s: not repaired:\n%s", act, diff(good, got))
				}
				if n := syncState(t, b, want); n != 0 {
					t.Errorf("%s: %d writes after it was repaired", act, n)
				}
			}
		}
	})
}

// Everything is flushed and the machine's own rules are loaded again, as when Qubes' services restart.
func TestFlushAndReload(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		b := m.open(t)
		bind(t, b, personal, social)
		good := sorted(m.rules(t))
		if m.kind == "nftables" {
			m.shell(t, "nft flush ruleset")
		} else {
			m.shell(t, "iptables -F; iptables -t nat -F; iptables -X; iptables -t nat -X")
		}
		bind(t, b, personal, social) // Qubes' table is not there: it must not be made
		m.loadForeign(t)
		bind(t, b, personal, social)
		if got := sorted(m.rules(t)); got != good {
			t.Errorf("not as before:\n%s", diff(good, got))
		}
		if n := bind(t, b, personal, social); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}
	})
}

// The same bindings give the same rules after any history.
func TestHistory(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		random := rand.New(rand.NewPCG(1, 2))
		all := make([]Binding, 6)
		pick := func() (some []Binding) {
			for i := range all {
				if random.IntN(2) == 0 {
					vif, addr := fmt.Sprintf("vif%d.0", i), fmt.Sprintf("10.137.0.%d", i+1)
					some = append(some, binding(vif, addr, fmt.Sprintf("10.138.0.1:%d", 61000+random.IntN(50))))
				}
			}
			return some
		}
		b := m.open(t)
		for range 10 {
			switch random.IntN(6) {
			case 0:
				b = m.open(t) // the last daemon has crashed
			case 1:
				if err := b.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want := pick()
			bind(t, b, want...)
			if n := bind(t, b, want...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			got := sorted(m.rules(t))
			bind(t, m.open(t), want...)
			if fresh := sorted(m.rules(t)); got != fresh {
				t.Fatalf("rules depend on history:\n%s", diff(fresh, got))
			}
		}
	})
}

// A transaction prepared for what the kernel no longer holds must fail as a whole.
func TestStaleSnapshot(t *testing.T) {
	enterNamespace(t)
	m := machines[0]
	m.loadForeign(t)
	b := m.open(t).(*nftBackend)
	bind(t, b, personal)
	stale, err := b.conn.read()
	if err != nil {
		t.Fatal(err)
	}
	m.shell(t, "nft delete table ip qubes")
	m.loadForeign(t) // Qubes restarted its firewall; our jump's handle is gone
	before := m.rules(t)
	if err := b.load(stale, State{Bindings: []Binding{social}}); err == nil {
		t.Error("no error")
	}
	if got := m.rules(t); got != before {
		t.Errorf("rules changed:\n%s", diff(before, got))
	}
	bind(t, b, social)
	if n := bind(t, b, social); n != 0 {
		t.Errorf("%d writes with nothing to do", n)
	}
}

// After an error, as here on a socket that has gone bad, the next Sync works.
func TestConnectionLost(t *testing.T) {
	enterNamespace(t)
	b := machines[1].open(t).(*nftBackend)
	b.conn.socket.Close()
	if _, err := b.Sync(t.Context(), State{Bindings: []Binding{personal}}, func() {}); err == nil {
		t.Error("no error")
	}
	if n := bind(t, b, personal); n != 3 {
		t.Errorf("%d writes instead of 3", n)
	}
}

// A foreign rule that leads to our chain keeps it from being deleted, but not the rest.
func TestRemoveWhileReferred(t *testing.T) {
	enterNamespace(t)
	m := machines[0]
	m.loadForeign(t)
	b := m.open(t)
	bind(t, b, personal)
	m.shell(t, "nft add rule ip qubes input jump vifproxy-input")
	if err := b.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("error %v", err)
	}
	if got := m.rules(t); strings.Contains(got, "dnat") || strings.Contains(got, "@vifproxy") {
		t.Errorf("still there:\n%s", got)
	}
}

// The log names what another program did.
func TestDriftIsLogged(t *testing.T) {
	enterNamespace(t)
	m := machines[1]
	b := m.open(t).(*nftBackend)
	var out bytes.Buffer
	b.log = slog.New(slog.NewTextHandler(&out, nil))
	m.shell(t, "nft add rule ip vifproxy input drop")
	bind(t, b)
	if got := out.String(); !strings.Contains(got, "rule vifproxy input: handle") {
		t.Errorf("log: %s", got)
	}
}

// sorted makes rules comparable where their order depends on history and means nothing: of tables and chains, and of
// elements.
func sorted(rules string) string {
	elements := strings.NewReplacer("elements = { ", "", " }\n", "\n", ",\n", "\n", "\t", "", "     ", "")
	lines := strings.Split(elements.Replace(rules), "\n")
	input := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "-A INPUT") })
	if input >= 0 && strings.Contains(rules, admissionComment) && !strings.Contains(lines[input], `"`+admissionComment+`"`) {
		return "the admission is not first: " + rules
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
