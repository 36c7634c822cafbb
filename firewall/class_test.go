package firewall

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reside has a host on the uplink have an address, answer there at port 80, and be reached.
func reside(t *testing.T, uplink *host, addr string) {
	t.Helper()
	ip := netip.MustParseAddr(addr)
	only := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: index(t, "uplink"), Dst: only}))
	must(t, uplink.do(func() error {
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
	onEach(t, func(t *testing.T, m machine) {
		_, b := site(t)
		web := attach(t, "uplink", internet, "192.0.2.1", 1)
		for _, addr := range []string{"192.168.1.9", "169.254.169.254", "fd00::9"} {
			reside(t, web, addr)
		}
		must(t, netlink.AddrAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index(t, "uplink")}}, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::1"),
			Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}))
		must(t, web.do(func() error {
			listen(t, "[::]:80", "uplink")
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index,
				Dst: &net.IPNet{IP: net.ParseIP("fd00::1"), Mask: net.CIDRMask(128, 128)}})
		}))
		b.do(func() error { listen(t, b.addr+":80", "b"); return nil })
		listen(t, "[::]:80", "firewall VM")
		if m.kind == "nftables" && m.foreign != "" { // what the hotplug script does
			m.shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		backend := m.open(t)

		home := []string{"127.0.0.1", "127.9.9.9", gateway, "192.0.2.1", b.addr, "169.254.169.254", "::1", "fd00::1"}
		lan := []string{"192.168.1.9", "fd00::9"}
		expect := func(what, addr string, want bool) {
			t.Helper()
			if got := opens(t, personalUID, net.JoinHostPort(addr, "80"), want); got != want {
				t.Errorf("%s: %s opens: %t", what, addr, got)
			}
		}
		with := func(holes []Hole, own ...Hole) Fence {
			return Fence{Holes: holes, Proxies: []Proxy{{UID: personalUID, Holes: own}}}
		}
		all4, all6 := hole("0.0.0.0/0", 0), hole("::/0", 0)
		at4, at6 := hole("0.0.0.0/0", 80), hole("::/0", 80)
		for what, fence := range map[string]Fence{
			"all networks, of one":          with(nil, all4, all6),
			"all networks at port 80":       with(nil, at4, at6),
			"all networks, of every proxy":  with([]Hole{all4, all6}),
			"all at port 80, of every":      with([]Hole{at4, at6}),
			"addresses that names have":     with(singles(home, false)),
			"of one, addresses of names":    with(nil, singles(home, false)...),
			"4in6 does not get around that": with([]Hole{all4, all6}, at4, at6),
		} {
			syncState(t, backend, State{Fence: fence})
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
		for what, fence := range map[string]Fence{
			"literal, of one":   with(nil, singles(home, true)...),
			"literal, of every": with(singles(home, true)),
		} {
			syncState(t, backend, State{Fence: fence})
			for _, addr := range home {
				expect(what, addr, true)
			}
			for _, addr := range lan {
				expect(what, addr, false)
			}
		}
	})
}

// singles are holes to these addresses at port 80.
func singles(addrs []string, literally bool) (holes []Hole) {
	for _, addr := range addrs {
		h := literal(addr, 80)
		h.Literal = literally
		holes = append(holes, h)
	}
	return holes
}

// TestProxiesLeaveByTheInterfacesThatTheyMay: a tunnel is down, and what AppVMs send is dropped where it would leave by
// another interface. Proxies and their questions for names do not leave there either.
func TestProxiesLeaveByTheInterfacesThatTheyMay(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		site(t)
		places := map[string]string{"uplink": internet, "wg0": "192.0.3.9", "lo": "127.0.0.1"}
		for vif, addr := range places {
			answer := func() error {
				listen(t, addr+":80", vif)
				listen(t, addr+":53", vif)
				return nil
			}
			if vif == "lo" {
				answer()
			} else {
				attach(t, vif, addr, netip.MustParseAddr(addr).Prev().String(), 1).do(answer)
			}
		}
		backend := m.open(t)
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
			fence := Fence{Leave: test.leave, Barred: test.barred}
			for _, addr := range places {
				fence.Resolvers = append(fence.Resolvers, netip.MustParseAddr(addr))
			}
			syncState(t, backend, State{Fence: fence})
			for vif, addr := range places {
				for _, port := range []string{":80", ":53"} {
					want := slices.Contains(strings.Fields(test.want), vif) || vif == "lo" && port == ":53" // a resolver of the firewall VM's own
					if got := opens(t, personalUID, addr+port, want); got != want {
						t.Errorf("%s: %s%s opens: %t", test.name, vif, port, got)
					}
					verdict, err := fence.Judge(personalUID, netip.MustParseAddrPort(addr+port))
					if err != nil || verdict.Passes != want {
						t.Errorf("%s: %s%s is judged %+v, %v", test.name, vif, port, verdict, err)
					}
					if port == ":53" {
						if got := asksByUDP(t, personalUID, addr+port); got != want {
							t.Errorf("%s: %s by UDP: %t", test.name, vif, got)
						}
					}
				}
			}
		}
	})
}

// asksByUDP reports whether a datagram of this uid leaves.
func asksByUDP(t *testing.T, uid int, to string) (sent bool) {
	t.Helper()
	as(t, uid, func() {
		conn, err := net.Dial("udp", to)
		if err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		_, err = conn.Write([]byte("?"))
		sent = err == nil
	})
	return sent
}
