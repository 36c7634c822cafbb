package policy_test

import (
	"net/netip"
	"slices"
	"testing"

	"vifproxy/internal/policy/policytest"
	"vifproxy/tinyproxy"
)

// A lesson permits every name, and the fence opens no address for it but those of the list and those that the resolver has answered.
func TestLearning(t *testing.T) {
	list := policytest.Of(t, netip.MustParseAddr("127.0.0.1"), []string{`^bank\.example$`, `^192\.0\.2\.1$`}, "FilterDefaultDeny Yes", "ConnectPort 443")
	open := list.Learning(1)
	for host, want := range map[string]bool{
		"bank.example": true, "192.0.2.1": true, "shop.example": true, "UPPER.example": true, "a_b.x-y.example.": true, "localhost": true, "xn--bcher-kva.example": true,
		"192.0.2.2": false, "127.0.0.1": false, "127.1": false, "2130706433": false, "2001:db8::1": false, "a b": false, "a/b": false, "a@b": false, "a\nb": false, "": false,
	} {
		permits, line := open.Matcher().Permits(host)
		if permits != want {
			t.Errorf("%q: %t (line %d), want %t", host, permits, line, want)
		}
		if host == "" || host == "a\nb" || host == "a b" || host == "a/b" || host == "a@b" {
			continue // no request line can have them
		}
		judged, err := open.Judge().Matches(t.Context(), []string{open.Rules[len(open.Rules)-1].Text, `^192\.0\.2\.1$`}, []tinyproxy.Request{{Tunnel: true, Host: host, Port: 443}}, 1)
		if err != nil || (len(judged[0]) > 0) != want {
			t.Errorf("%q: the real tinyproxy says %v, %v, want %t", host, judged, err, want)
		}
	}
	if open.AnyAddress != "" || !slices.Equal(open.Listed, list.Listed) {
		t.Errorf("addresses: %v, %q, want %v", open.Listed, open.AnyAddress, list.Listed)
	}
	if gate := open.Gate(nil); gate.Everything || gate.DefaultAllow {
		t.Errorf("gate: %+v", gate)
	}
	if !open.PermitsAll(list) || list.PermitsAll(open) || open.Key() == list.Key() || open.Key() == list.Learning(2).Key() || list.Learns() || !open.Learns() {
		t.Error("a lesson permits all that the list does, and more")
	}
	if moved := open.At(netip.MustParseAddr("127.0.0.2"), ""); !moved.Learns() {
		t.Error("at another gateway it is no lesson any more")
	}
}

// A lesson stays below the ceiling.
func TestLearningStaysBelowTheCeiling(t *testing.T) {
	c := ceilingOf(t, "#: format domains\nbank.example\n*.shop.example\n192.0.2.7\n")
	list, err := under(t, c, "#: format domains\nbank.example\n", "")
	if err != nil {
		t.Fatal(err)
	}
	open := list.Learning(1)
	for host, want := range map[string]bool{"bank.example": true, "a.shop.example": true, "evil.example": false, "shop.example": false} {
		if permits, _ := open.Matcher().Permits(host); permits != want {
			t.Errorf("%s: %t, want %t", host, permits, want)
		}
	}
	if open.AnyAddress != "" || len(open.Listed) > 0 {
		t.Errorf("addresses: %v, %q", open.Listed, open.AnyAddress)
	}
}
