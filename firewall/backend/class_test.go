package backend

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// reside has a host on the uplink have an address, answer there at port 80, and be reached.
func reside(t *testing.T, uplink *Host, addr string) {
	t.Helper()
	ip := netip.MustParseAddr(addr)
	only := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
	Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: LinkIndex(t, "uplink"), Dst: only}))
	Must(t, uplink.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(eth0, &netlink.Addr{IPNet: only, Flags: unix.IFA_F_NODAD}))
	}))
}

// TestWideOpeningsDoNotLeadHome: what a person wrote for one address leads there. A network, or an address that a name
// has, never leads to the firewall VM, its links, or AppVMs, whatever it contains; not by IPv6 either.
func TestWideOpeningsDoNotLeadHome(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		_, b := NewSite(t)
		web := Attach(t, "uplink", Internet, "192.0.2.1", 1)
		for _, addr := range []string{"192.168.1.9", "169.254.169.254", "fd00::9"} {
			reside(t, web, addr)
		}
		Must(t, netlink.AddrAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: LinkIndex(t, "uplink")}}, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::1"),
			Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}))
		Must(t, web.Do(func() error {
			Listen(t, "[::]:80", "uplink")
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index,
				Dst: &net.IPNet{IP: net.ParseIP("fd00::1"), Mask: net.CIDRMask(128, 128)}})
		}))
		b.Do(func() error { Listen(t, b.Addr+":80", "b"); return nil })
		Listen(t, "[::]:80", "firewall VM")
		if m.Kind == "nftables" && m.Foreign != "" { // what the hotplug script does
			m.Shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		backend := open(t, m)

		home := []string{"127.0.0.1", "127.9.9.9", Gateway, "192.0.2.1", b.Addr, "169.254.169.254", "::1", "fd00::1"}
		lan := []string{"192.168.1.9", "fd00::9"}
		expect := func(what, addr string, want bool) {
			t.Helper()
			if got := Opens(t, PersonalUID, net.JoinHostPort(addr, "80"), want); got != want {
				t.Errorf("%s: %s opens: %t", what, addr, got)
			}
		}
		with := func(openings []firewall.Opening, own ...firewall.Opening) firewall.Fence {
			return firewall.Fence{Openings: openings, Proxies: []firewall.Proxy{{UID: PersonalUID, Openings: own}}}
		}
		all4, all6 := OpeningTo("0.0.0.0/0", 0), OpeningTo("::/0", 0)
		at4, at6 := OpeningTo("0.0.0.0/0", 80), OpeningTo("::/0", 80)
		for what, fence := range map[string]firewall.Fence{
			"all networks, of one":          with(nil, all4, all6),
			"all networks at port 80":       with(nil, at4, at6),
			"all networks, of every proxy":  with([]firewall.Opening{all4, all6}),
			"all at port 80, of every":      with([]firewall.Opening{at4, at6}),
			"addresses that names have":     with(singles(home, false)),
			"of one, addresses of names":    with(nil, singles(home, false)...),
			"4in6 does not get around that": with([]firewall.Opening{all4, all6}, at4, at6),
		} {
			Sync(t, backend, firewall.State{Fence: fence})
			for _, addr := range home {
				expect(what, addr, false)
			}
			expect(what, "::ffff:127.0.0.1", false)
			if what[:3] == "all" {
				for _, addr := range lan {
					expect(what, addr, true)
				}
			}
		}
		for what, fence := range map[string]firewall.Fence{
			"literal, of one":   with(nil, singles(home, true)...),
			"literal, of every": with(singles(home, true)),
		} {
			Sync(t, backend, firewall.State{Fence: fence})
			for _, addr := range home {
				expect(what, addr, true)
			}
			for _, addr := range lan {
				expect(what, addr, false)
			}
		}
	})
}

// singles are openings to these addresses at port 80.
func singles(addrs []string, literally bool) (openings []firewall.Opening) {
	for _, addr := range addrs {
		h := LiteralTo(addr, 80)
		h.Literal = literally
		openings = append(openings, h)
	}
	return openings
}

// TestProxiesLeaveByTheInterfacesThatTheyMay: a tunnel is down, and what AppVMs send is dropped where it would leave by
// another interface. Proxies and the resolver do not leave there either.
func TestProxiesLeaveByTheInterfacesThatTheyMay(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		NewSite(t)
		places := map[string]string{"uplink": Internet, "wg0": "192.0.3.9", "lo": "127.0.0.1"}
		for vif, addr := range places {
			answer := func() error {
				Listen(t, addr+":80", vif)
				Listen(t, addr+":53", vif)
				return nil
			}
			if vif == "lo" {
				answer()
			} else {
				Attach(t, vif, addr, netip.MustParseAddr(addr).Prev().String(), 1).Do(answer)
			}
		}
		backend := open(t, m)
		for _, test := range []struct {
			name          string
			leave, barred []string
			want          string // where it comes, to ports 80 and 53
		}{
			{"any", nil, nil, "uplink wg0"},
			{"one", []string{"wg0"}, nil, "wg0"},
			{"one that is not there", []string{"tun0"}, nil, ""},
			{"not one", nil, []string{"wg0"}, "uplink"},
			{"the tunnel only, and not the uplink", []string{"wg0", "uplink"}, []string{"uplink"}, "wg0"},
			{"none", nil, []string{"uplink", "wg0"}, ""},
			{"any again", nil, nil, "uplink wg0"},
		} {
			fence := firewall.Fence{Leave: test.leave, Barred: test.barred, Proxies: Everywhere(PersonalUID)}
			for _, addr := range places {
				fence.Resolvers = append(fence.Resolvers, netip.MustParseAddr(addr))
			}
			Sync(t, backend, firewall.State{Fence: fence})
			for vif, addr := range places {
				for _, port := range []string{":80", ":53"} {
					want := slices.Contains(strings.Fields(test.want), vif) || vif == "lo" && port == ":53" // a name server of the firewall VM's own
					uid := PersonalUID
					if port == ":53" {
						uid = NamesUID
						if got := AsksByUDP(t, uid, addr+port); got != want {
							t.Errorf("%s: %s by UDP: %t", test.name, vif, got)
						}
						if Opens(t, PersonalUID, addr+port, false) || AsksByUDP(t, PersonalUID, addr+port) {
							t.Errorf("%s: a proxy asks %s", test.name, vif)
						}
					}
					if got := Opens(t, uid, addr+port, want); got != want {
						t.Errorf("%s: %s%s opens: %t", test.name, vif, port, got)
					}
					verdict, err := fence.Judge(PersonalUID, netip.MustParseAddrPort(addr+port))
					if err != nil || verdict.Passes != (want && port != ":53") {
						t.Errorf("%s: %s%s is judged %+v, %v", test.name, vif, port, verdict, err)
					}
				}
			}
		}
	})
}
