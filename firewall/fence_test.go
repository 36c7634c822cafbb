package firewall

import (
	"net/netip"
	"slices"
	"testing"
)

func opening(to string, port uint16) Opening {
	return Opening{To: netip.MustParsePrefix(to), Port: port}
}

func TestDisjoint(t *testing.T) {
	f := Fence{Ports: []uint16{80, 443}}
	got := Disjoint(append(f.WithPorts([]Opening{opening("192.168.0.0/16", 0), opening("192.168.1.0/24", 80)}),
		opening("192.168.1.5/32", 8080), opening("192.168.1.0/24", 8080), opening("192.169.0.0/16", 80), opening("::/0", 80),
		opening("fd00::/8", 80), opening("0.0.0.0/32", 80), opening("192.168.1.0/24", 0)))
	want := []Opening{opening("192.168.1.0/24", 0), opening("0.0.0.0/32", 80), opening("192.168.0.0/16", 80),
		opening("192.169.0.0/16", 80), opening("::/0", 80), opening("192.168.0.0/16", 443), opening("192.168.1.0/24", 8080)}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
