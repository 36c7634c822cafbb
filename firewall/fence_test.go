package firewall

import (
	"net/netip"
	"slices"
	"testing"
)

func hole(to string, port uint16) Hole { return Hole{To: netip.MustParsePrefix(to), Port: port} }

func TestDisjoint(t *testing.T) {
	f := Fence{Ports: []uint16{80, 443}}
	got := Disjoint(append(f.WithPorts([]Hole{hole("192.168.0.0/16", 0), hole("192.168.1.0/24", 80)}),
		hole("192.168.1.5/32", 8080), hole("192.168.1.0/24", 8080), hole("192.169.0.0/16", 80), hole("::/0", 80),
		hole("fd00::/8", 80), hole("0.0.0.0/32", 80), hole("192.168.1.0/24", 0)))
	want := []Hole{hole("192.168.1.0/24", 0), hole("0.0.0.0/32", 80), hole("192.168.0.0/16", 80),
		hole("192.169.0.0/16", 80), hole("::/0", 80), hole("192.168.0.0/16", 443), hole("192.168.1.0/24", 8080)}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
