package policy

import (
	"fmt"
	"testing"

	"vifproxy/rules"
)

func TestCommon(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"10.0.0.0/8", "10.0.0.0/8", "[{10.0.0.0/8 0 false}]"},
		{"10.0.0.0/8", "10.1.0.0/16", "[{10.1.0.0/16 0 false}]"},
		{"10.1.0.0/16,192.168.1.0/24:81", "10.0.0.0/8,192.168.0.0/16", "[{10.1.0.0/16 0 false}]"},
		{"192.168.1.0/24:81", "192.168.0.0/16:81", "[{192.168.1.0/24 81 false}]"},
		{"10.1.0.0/16", "10.2.0.0/16", "[]"},
		{"10.1.2.3", "10.1.2.3/32", "[{10.1.2.3/32 0 true}]"},
		{"10.1.2.3", "10.0.0.0/8", "[{10.1.2.3/32 0 false}]"}, // as the network has it: not if it is an AppVM's
	} {
		a, _ := rules.ParseEgress(c.a)
		b, _ := rules.ParseEgress(c.b)
		for range 2 {
			if got := fmt.Sprint(common(Openings(a), Openings(b))); got != c.want {
				t.Errorf("%v and %v: %s, want %s", a, b, got, c.want)
			}
			a, b = b, a
		}
	}
}
