package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ruleset"
)

// What Sync asks of the kernel depends on what there is to do, and not on how many AppVMs there are.
func TestRequests(t *testing.T) {
	for _, n := range []int{1, 250} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			EnterNamespace(t)
			m := Machines[0]
			m.LoadForeign(t)
			b := open(t, m)
			own := []firewall.Opening{OpeningTo("192.168.1.0/24", 8080), OpeningTo("fd12::/64", 443), OpeningTo("10.8.0.0/16", 0)}
			want := Housing(n, own...)
			Sync(t, b, want)
			kernel := Tap(b.conn.Conn)
			for _, step := range []struct {
				what, requests string
				writes         int
				change         func()
			}{
				{"nothing", "generation", 0, func() {}},
				{"one comes", "begin add add add add end", 4, func() {
					next := Housing(n + 1)
					want.Bindings = next.Bindings
					want.Fence.Proxies = append(want.Fence.Proxies, next.Fence.Proxies[n])
				}},
				{"one moves", "begin delete add add delete add add end, begin delete delete end", 8, func() {
					want.Bindings[0].To = BindingOf("x", "10.0.0.1", "10.138.0.1:64999").To
				}},
				{"nothing again", "generation", 0, func() {}},
				{"one goes", "begin delete delete delete delete end", 4, func() { want = Without(want) }},
				{"one comes with holes", "begin add add add add add add add end", 7, func() {
					want.Bindings = append(want.Bindings, BindingOf("vif999.0", "10.137.9.9", "10.138.0.1:64998"))
					want.Fence.Proxies = append(want.Fence.Proxies, firewall.Proxy{UID: PersonalUID, Openings: own})
				}},
				{"a hole becomes narrower", "begin delete add end", 2, func() {
					want.Fence.Proxies[n].Openings = []firewall.Opening{OpeningTo("192.168.1.128/25", 8080), own[1], own[2]}
				}},
				{"a hole for all", "begin add end", 1, func() {
					want.Fence.Openings = []firewall.Opening{OpeningTo("10.9.9.9/32", 3128)}
				}},
				{"other resolvers", "begin delete add end", 2, func() {
					want.Fence.Resolvers = []netip.Addr{want.Fence.Resolvers[0], netip.MustParseAddr("9.9.9.9")}
				}},
				{"another port", "begin delete add end", 2, func() { want.Fence.Ports = []uint16{8443} }},
				{"one with holes goes", "begin delete delete delete delete delete delete delete end", 7, func() {
					want = Without(want)
				}},
			} {
				step.change()
				if writes := Sync(t, b, want); writes != step.writes {
					t.Errorf("%s: %d writes instead of %d", step.what, writes, step.writes)
				}
				if got := kernel.Asked(); got != step.requests {
					t.Errorf("%s: asked for %s; want %s", step.what, got, step.requests)
				}
			}
			got := Sorted(m.Rules(t))
			Sync(t, open(t, m), want)
			if fresh := Sorted(m.Rules(t)); got != fresh {
				t.Errorf("not what a fresh start makes of it:\n%s", Diff(fresh, got))
			}
		})
	}
}

// others are transactions of another program, on our things and on its own.
var others = []string{
	"nft add table ip other",
	"nft flush chain ip vifproxy input",
	"nft delete table ip vifproxy",
	"nft flush set ip vifproxy bindings",
	"nft add element ip vifproxy ports '{ vif9.0 . 10.137.0.99 : 10.138.0.1 . 61000 }'",
	"nft add element ip vifproxy bindings '{ vif2.0 . 10.137.0.12 . 61001 }'", // before us
	"nft add element ip qubes vifproxy '{ vif9.0 . 10.137.0.99 . 61000 }'",
	"nft insert rule inet vifproxy egress accept",
	"nft add element inet vifproxy owned4 '{ 1888026636 . 192.168.1.0/24 . 22 }'",
	"nft flush set inet vifproxy ports",
	"nft delete table inet vifproxy",
}

// Whatever somebody does between two Syncs, or between the last that Sync reads and what it writes then, is found and
// set right, also when there is something to write besides.
func TestOutrun(t *testing.T) {
	for _, racing := range []bool{false, true} {
		for _, act := range others {
			t.Run(fmt.Sprintf("racing=%t/%s", racing, strings.ReplaceAll(act, "/", "")), func(t *testing.T) {
				EnterNamespace(t)
				m := Machines[0]
				m.LoadForeign(t)
				b := open(t, m)
				want := firewall.State{Bindings: []firewall.Binding{Personal, Social}, Fence: Wide()}
				Sync(t, b, want)
				good := Sorted(m.Rules(t))
				Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide()})

				kernel, times := Tap(b.conn.Conn), 0
				act := func() {
					if times++; times == 1 {
						m.Shell(t, act)
					}
				}
				if racing {
					kernel.Meanwhile = act
				} else {
					act()
				}
				if n := Sync(t, b, want); n == 0 {
					t.Error("no writes")
				}
				if times == 0 {
					t.Fatal("there was no race")
				}
				if asked := kernel.Asked(); !strings.HasPrefix(asked, "begin add add add add end, generation, other") {
					t.Errorf("asked for %s; want a write, its refusal, and a look at everything", asked[:min(len(asked), 200)])
				}
				kernel.Meanwhile = nil
				m.Shell(t, "nft delete table ip other 2>/dev/null || true")
				if n := Sync(t, b, want); n != 0 {
					t.Errorf("%d writes after it was set right", n)
				}
				if got := Sorted(m.Rules(t)); got != good {
					t.Errorf("not set right:\n%s", Diff(good, got))
				}
			})
		}
	}
}

// Where somebody is faster each time, Sync ends all the same, with an error, and has written nothing.
func TestAlwaysOutrun(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	b := open(t, m)
	Bind(t, b, Personal)
	good := m.Rules(t)
	other := NewForeigner(t, m)
	Bind(t, b, Personal)
	Tap(b.conn.Conn).Meanwhile = func() { other.Write(t) }
	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{Social}}, func() {}); !errors.Is(err, ruleset.ErrBusy) {
		t.Errorf("error %v", err)
	}
	if got := strings.Split(m.Rules(t), "table ip other")[0]; got != good {
		t.Errorf("rules changed:\n%s", Diff(good, got))
	}
	if n := Bind(t, b, Social); n != 8 {
		t.Errorf("%d writes instead of 8", n)
	}
}

// The caller's bindings are the caller's.
func TestBindingsChangedByCaller(t *testing.T) {
	EnterNamespace(t)
	b := open(t, Machines[1])
	mine := []firewall.Binding{Personal, Social}
	Bind(t, b, mine...)
	mine[0] = Stubdom
	if n := Bind(t, b, mine...); n != 5 {
		t.Errorf("%d writes instead of 5", n)
	}
}

// TestRestoredOnANewConnection: what Sync has written is remembered although restoring the pins has taken a new connection.
func TestRestoredOnANewConnection(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	state := firewall.State{Bindings: []firewall.Binding{Personal, Social}, Fence: Wide()}
	Sync(t, b, state)
	other := NewForeigner(t, m)
	element := fmt.Sprintf("element inet vifproxy pinned4 '{ %d . 93.0.0.9", PersonalUID)
	anew := func() {
		t.Helper()
		m.Shell(t, "nft add "+element+" timeout 60s }'")
		before := b.conn
		Tap(b.conn.Conn).Meanwhile = once(func() { m.Shell(t, "nft delete "+element+" }'") }) // it has ended since it was read
		Sync(t, b, state)
		if b.conn == before {
			t.Fatal("this has taken no new connection")
		}
	}
	anew()
	good := m.Rules(t)

	if _, err := b.Sync(t.Context(), firewall.State{Bindings: []firewall.Binding{{Vif: "-"}}}, func() {}); err == nil {
		t.Error("no error for a state that cannot be")
	}
	if got := m.Rules(t); got != good {
		t.Errorf("a state that cannot be was written:\n%s", Diff(good, got))
	}

	anew()
	Tap(b.conn.Conn).Meanwhile = func() { other.Write(t) }
	next := firewall.State{Bindings: []firewall.Binding{Social}, Fence: firewall.Fence{Proxies: Everywhere(SocialUID)}}
	if _, err := b.Sync(t.Context(), next, func() {}); !errors.Is(err, ruleset.ErrBusy) || errors.Is(err, firewall.ErrUnfenced) {
		t.Errorf("error %v, want only that others are busy", err)
	}
}
