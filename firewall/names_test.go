package firewall

import (
	"net/netip"
	"testing"
)

func TestAskersAndListedAddressesThatCannotBe(t *testing.T) {
	c := Config{FirstUID: 0x70000000, LastUID: 0x71ffffff, NamesUID: 0x71ffffff}
	at := func(uid uint32, to string) Asker { return Asker{uid, netip.MustParseAddrPort(to)} }
	good := []Asker{at(0x70000002, "127.64.0.2:5300"), at(0x70000001, "127.64.0.1:5300")}
	if normal, err := c.Normal(State{Askers: good}); err != nil || normal.Askers[0] != good[1] || good[0].UID != 0x70000002 {
		t.Errorf("%v, %v", normal.Askers, err)
	}
	for _, bad := range [][]Asker{
		{at(0, "127.64.0.1:53")}, {at(0x71ffffff, "127.64.0.1:53")}, {at(0x70000001, "127.64.0.1:0")}, {at(0x70000001, "10.0.0.1:53")},
		{at(0x70000001, "[::1]:53")}, {{UID: 0x70000001}}, {good[0], good[0]}, {good[0], at(0x70000001, good[0].At.String())},
	} {
		if _, err := c.Normal(State{Askers: bad}); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
	for addr, public := range map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "10.0.0.1": false, "::1": false, "0.0.0.0": false,
		"2001:db8::1%eth0": false, "::ffff:192.0.2.1": false, "255.255.255.255": false} {
		listed := Fence{Proxies: []Proxy{{UID: 0x70000001, Listed: []netip.Addr{netip.MustParseAddr(addr)}}}}
		if _, err := c.Normal(State{Fence: listed}); (err == nil) != public || Public(netip.MustParseAddr(addr)) != public {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}
