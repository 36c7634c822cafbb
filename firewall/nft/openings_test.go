package nft

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// Openings that overlap, grow and shrink give the same rules after any history, and whether nft writes them or we do.
func TestHistoryOfOpenings(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	random := rand.New(rand.NewPCG(1, 2))
	some := func() (openings []firewall.Opening) {
		for range random.IntN(5) {
			addr := []string{"192.168.1.1", "192.168.1.129", "10.1.1.1", "fd12:3456::1", "fd12::1"}[random.IntN(5)]
			h := firewall.Opening{Port: []uint16{0, 80, 8080}[random.IntN(3)]}
			at := netip.MustParseAddr(addr)
			h.To, _ = at.Prefix([]int{0, 7, 8, 16, 24, 25, 32, at.BitLen()}[random.IntN(8)])
			openings = append(openings, h)
		}
		return openings
	}
	b := open(t, m)
	for range 40 {
		want := firewall.State{Fence: firewall.Fence{Ports: []uint16{80, 443, 563}[:1+random.IntN(3)], Openings: some(),
			Proxies: []firewall.Proxy{{UID: PersonalUID, Openings: some()}, {UID: SocialUID, Openings: some(), Ports: []uint16{22, 443, 8443}[:random.IntN(4)]}}}}
		Sync(t, b, want)
		got := Sorted(m.Rules(t))
		m.Shell(t, "nft delete table inet vifproxy")
		if n := Sync(t, b, want); n != 1 {
			t.Errorf("%d writes for loading again", n)
		}
		if loaded := Sorted(m.Rules(t)); got != loaded {
			t.Fatalf("for %+v, rules depend on history:\n%s", want, Diff(loaded, got))
		}
		m.Shell(t, "nft add table other; nft delete table other") // so that all is read
		if n := Sync(t, b, want); n != 0 {
			t.Errorf("%d writes where nothing differs", n)
		}
	}
}

// Openings are the largest elements; more than a thousand take more than one message.
func TestManyOpenings(t *testing.T) {
	EnterNamespace(t)
	m := Machines[1]
	b := open(t, m)
	want := firewall.State{Fence: firewall.Fence{Proxies: []firewall.Proxy{{UID: PersonalUID}}}}
	addr := netip.MustParseAddr("fd00::")
	for range 1500 {
		addr = addr.Next()
		want.Fence.Proxies[0].Openings = append(want.Fence.Proxies[0].Openings, firewall.Opening{To: netip.PrefixFrom(addr, 128), Port: 443})
	}
	kernel := Tap(b.conn.Conn)
	if n := Sync(t, b, want); n != 1500 {
		t.Errorf("%d writes instead of 1500", n)
	}
	if asked := kernel.Asked(); !strings.HasSuffix(asked, "begin add add add end") {
		t.Errorf("asked for %s", asked)
	}
	m.Shell(t, "nft add table other")
	if n := Sync(t, b, want); n != 0 {
		t.Errorf("%d writes where nothing differs", n)
	}
}
