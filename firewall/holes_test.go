package firewall

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
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
			Proxies: []Proxy{{personalUID, some()}, {socialUID, some()}}}}
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

// An nft that understands the text in another way than we do is not believed.
func TestOtherText(t *testing.T) {
	enterNamespace(t)
	b := machines[1].open(t).(*nftBackend)
	tool := b.tool
	b.tool = edited(t, tool, "s/1888026635/1888026636/")
	machines[1].shell(t, "nft delete table inet vifproxy")
	want := State{Fence: wide()}
	if _, err := b.Sync(t.Context(), want, func() {}); err == nil || !strings.Contains(err.Error(), errOtherText.Error()) {
		t.Errorf("error %v", err)
	}
	b.tool = tool
	if n := syncState(t, b, want); n != 1 {
		t.Errorf("%d writes instead of 1", n)
	}
}

// Rules that do not turn the uid are those of an older nft; or, as here, of a set without intervals.
func TestUIDNotTurned(t *testing.T) {
	for script, warned := range map[string]bool{"": false, "/set owned4/,/}/s/flags interval//": true} {
		enterNamespace(t)
		b := machines[1].open(t).(*nftBackend)
		var out bytes.Buffer
		b.log = slog.New(slog.NewTextHandler(&out, nil))
		b.tool = edited(t, b.tool, script)
		machines[1].shell(t, "nft delete table inet vifproxy")
		sync(t, b)
		if strings.Contains(out.String(), "older than 1.0.6") != warned {
			t.Errorf("%q: log: %s", script, &out)
		}
	}
}

// edited is an nft that reads what sed has made of the text.
func edited(t *testing.T, tool, script string) string {
	path := filepath.Join(t.TempDir(), "nft")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\nsed '"+script+"' | "+tool+" -f -\n"), 0o755))
	return path
}
