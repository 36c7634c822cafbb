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

// What IANA's registries for special purposes (RFC 6890, as of 2025-10) call not globally reachable is not public, and what they call
// reachable is.
func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"0.0.0.0": false, "10.255.255.255": false, "100.64.0.1": false, "127.0.0.1": false, "169.254.169.254": false, "172.31.0.1": false,
		"192.0.0.8": false, "192.0.0.170": false, "192.88.99.1": false, "192.88.99.2": false, "192.168.0.1": false, "198.19.0.1": false,
		"224.0.0.251": false, "240.0.0.1": false, "255.255.255.255": false,
		"9.255.255.255": true, "11.0.0.0": true, "100.63.255.255": true, "100.128.0.0": true, "192.31.196.1": true, "192.52.193.1": true,
		"192.88.98.255": true, "192.88.100.0": true, "192.175.48.1": true, "223.255.255.255": true,

		"::": false, "::1": false, "::ffff:8.8.8.8": false, "64:ff9b::808:808": false, "64:ff9b:1::1": false, "100::1": false,
		"100:0:0:1::1": false, "200::1": false, "2001::1": false, "2001:1::1": false, "2001:2::1": false, "2001:10::1": false,
		"2001:20::1": false, "2001:30::1": false, "2002:7f00:1::1": false, "4000::1": false, "5f00::1": false, "5f00:ffff::1": false,
		"8000::1": false, "fbff::1": false, "fc00::1": false, "fdff::1": false, "fe80::1": false, "fec0::1": false, "ff02::1": false,
		"2000::1": true, "2001:200::1": true, "2001:4860:4860::8888": true, "2003::1": true, "2620:4f:8000::1": true,
		"2a00:1450::1": true, "3ffe::1": true,
	} {
		if got := Public(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is public: %v, want %v", text, got, want)
		}
	}
	all := Forbidden()
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.Overlaps(b) {
				t.Errorf("%v and %v overlap", a, b)
			}
		}
	}
}
