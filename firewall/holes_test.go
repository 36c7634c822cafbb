package firewall

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestDisjoint(t *testing.T) {
	f := Fence{Ports: []uint16{80, 443}}
	got := disjoint(append(f.withPorts([]Hole{hole("192.168.0.0/16", 0), hole("192.168.1.0/24", 80)}),
		hole("192.168.1.5/32", 8080), hole("192.168.1.0/24", 8080), hole("192.169.0.0/16", 80), hole("::/0", 80),
		hole("fd00::/8", 80), hole("0.0.0.0/32", 80), hole("192.168.1.0/24", 0)))
	want := []Hole{hole("192.168.1.0/24", 0), hole("0.0.0.0/32", 80), hole("192.168.0.0/16", 80),
		hole("192.169.0.0/16", 80), hole("::/0", 80), hole("192.168.0.0/16", 443), hole("192.168.1.0/24", 8080)}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Holes that overlap, grow and shrink give the same rules after any history, and whether nft writes them or we do.
func TestHistoryOfHoles(t *testing.T) {
	enterNamespace(t)
	m := machines[1]
	random := rand.New(rand.NewPCG(1, 2))
	some := func() (holes []Hole) {
		for range random.IntN(5) {
			addr := []string{"192.168.1.1", "192.168.1.129", "10.1.1.1", "fd12:3456::1", "fd12::1"}[random.IntN(5)]
			h := Hole{Port: []uint16{0, 80, 8080}[random.IntN(3)]}
			at := netip.MustParseAddr(addr)
			h.To, _ = at.Prefix([]int{0, 7, 8, 16, 24, 25, 32, at.BitLen()}[random.IntN(8)])
			holes = append(holes, h)
		}
		return holes
	}
	b := m.open(t)
	for range 40 {
		want := State{Fence: Fence{Ports: []uint16{80, 443, 563}[:1+random.IntN(3)], Holes: some(),
			Proxies: []Proxy{{personalUID, some(), nil}, {socialUID, some(), []uint16{22, 443, 8443}[:random.IntN(4)]}}}}
		syncState(t, b, want)
		got := sorted(m.rules(t))
		m.shell(t, "nft delete table inet vifproxy")
		if n := syncState(t, b, want); n != 1 {
			t.Errorf("%d writes for loading again", n)
		}
		if loaded := sorted(m.rules(t)); got != loaded {
			t.Fatalf("for %+v, rules depend on history:\n%s", want, diff(loaded, got))
		}
		m.shell(t, "nft add table other; nft delete table other") // so that all is read
		if n := syncState(t, b, want); n != 0 {
			t.Errorf("%d writes where nothing differs", n)
		}
	}
}

// Holes are the largest elements; more than a thousand take more than one message.
func TestManyHoles(t *testing.T) {
	enterNamespace(t)
	m := machines[1]
	b := m.open(t)
	want := State{Fence: Fence{Proxies: []Proxy{{UID: personalUID}}}}
	addr := netip.MustParseAddr("fd00::")
	for range 1500 {
		addr = addr.Next()
		want.Fence.Proxies[0].Holes = append(want.Fence.Proxies[0].Holes, Hole{To: netip.PrefixFrom(addr, 128), Port: 443})
	}
	kernel := tap(b)
	if n := syncState(t, b, want); n != 1500 {
		t.Errorf("%d writes instead of 1500", n)
	}
	if asked := kernel.asked(); !strings.HasSuffix(asked, "begin add add add end") {
		t.Errorf("asked for %s", asked)
	}
	m.shell(t, "nft add table other")
	if n := syncState(t, b, want); n != 0 {
		t.Errorf("%d writes where nothing differs", n)
	}
}
