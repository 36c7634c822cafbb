package firewalltest

import (
	"fmt"
	"net/netip"

	"vifproxy/firewall"
)

const PersonalUID, SocialUID, NamesUID = 0x7089000b, 0x7089000c, 0x71ffffff

// Askers are where the proxies ask.
var Askers = []firewall.Asker{
	{UID: PersonalUID, At: netip.MustParseAddrPort("127.64.0.1:5300")},
	{UID: SocialUID, At: netip.MustParseAddrPort("127.64.0.2:5300")},
}

// Everywhere are proxies to which all public addresses are open.
func Everywhere(uids ...uint32) (all []firewall.Proxy) {
	for _, uid := range uids {
		all = append(all, firewall.Proxy{UID: uid, AnyAddress: true})
	}
	return all
}

func OpeningTo(to string, port uint16) firewall.Opening {
	return firewall.Opening{To: netip.MustParsePrefix(to), Port: port}
}

// LiteralTo is an opening to one address that a person wrote.
func LiteralTo(to string, port uint16) firewall.Opening {
	addr := netip.MustParseAddr(to)
	return firewall.Opening{To: netip.PrefixFrom(addr, addr.BitLen()), Port: port, Literal: true}
}

// Wide is a fence with something of everything.
func Wide() firewall.Fence {
	return firewall.Fence{
		Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.2"), netip.MustParseAddr("10.139.1.1"),
			netip.MustParseAddr("fd00::53")},
		Ports:    []uint16{563, 443},
		Openings: []firewall.Opening{OpeningTo("10.9.9.9/32", 3128), LiteralTo("10.9.9.9", 3128), LiteralTo("fd12::9", 0)},
		Barred:   []string{"wg0"}, Leave: []string{"eth1", "eth0"},
		Proxies: []firewall.Proxy{
			{UID: SocialUID, AnyAddress: true},
			{UID: PersonalUID, Listed: []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")}, Openings: []firewall.Opening{OpeningTo("192.168.1.0/24", 0), OpeningTo("192.168.0.0/16", 8080),
				OpeningTo("fd12::/64", 443), LiteralTo("127.0.0.1", 8080), LiteralTo("fd12::1", 443), LiteralTo("10.138.0.1", 0),
				LiteralTo("fd12::1", 0)}, Ports: []uint16{8443, 22}},
		},
	}
}

var (
	Personal = BindingOf("vif1.0", "10.137.0.11", "10.138.0.1:61000")
	Social   = BindingOf("vif2.0", "10.137.0.12", "10.138.0.1:61001")
	Stubdom  = BindingOf("vif3.0", "10.137.0.12", "10.138.0.1:61001") // the same AppVM on its other vif
)

func Many(n int) (all []firewall.Binding) {
	for i := range n {
		all = append(all, BindingOf(fmt.Sprintf("vif%d.0", i), fmt.Sprintf("10.137.%d.%d", i/250, i%250+1),
			fmt.Sprintf("10.138.0.1:%d", 61000+i)))
	}
	return all
}

// Housing is a state of n AppVMs. Each proxy has openings of its own, if it is to.
func Housing(n int, openings ...firewall.Opening) firewall.State {
	s := firewall.State{Bindings: Many(n), Fence: firewall.Fence{
		Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("10.139.1.2")},
		Ports:     []uint16{563},
	}}
	for i := range n {
		s.Fence.Proxies = append(s.Fence.Proxies, firewall.Proxy{UID: TestConfig.FirstUID + uint32(i), Openings: openings})
	}
	return s
}

// Without is the same state when the last AppVM has gone.
func Without(s firewall.State) firewall.State {
	last := len(s.Bindings) - 1
	s.Bindings, s.Fence.Proxies = s.Bindings[:last], s.Fence.Proxies[:last]
	return s
}
