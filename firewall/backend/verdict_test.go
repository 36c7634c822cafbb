package backend

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// What is said of the fence is what the kernel does: for addresses in and around all networks that it knows of.
func TestJudgeAgreesWithTheKernel(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		_, b := NewSite(t)
		web := Attach(t, "uplink", Internet, "192.0.2.1", 1)
		Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: LinkIndex(t, "uplink"), Gw: net.ParseIP(Internet),
			Flags: int(netlink.FLAG_ONLINK)}))
		ports := []uint16{22, 53, 80, 443, 563, 3128, 8443}
		answer := func() error { // at any address
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			_, all, _ := net.ParseCIDR("0.0.0.0/0")
			for _, port := range ports {
				Listen(t, "0.0.0.0:"+strconv.Itoa(int(port)), "somebody")
			}
			return errors.Join(netlink.LinkSetUp(lo), netlink.RouteAdd(&netlink.Route{
				LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
		}
		Must(t, web.Do(answer))
		Must(t, b.Do(answer))
		for _, addr := range []string{"127.0.0.1", Gateway, "192.0.2.1"} {
			for _, port := range ports {
				Listen(t, net.JoinHostPort(addr, strconv.Itoa(int(port))), "somebody")
			}
		}
		if m.Kind == "nftables" && m.Foreign != "" { // what the hotplug script does
			m.Shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		fence := firewall.Fence{
			Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.1")}, Ports: []uint16{563},
			Openings: []firewall.Opening{OpeningTo("10.9.9.0/24", 3128), OpeningTo("172.20.0.0/16", 0)},
			Proxies: []firewall.Proxy{{UID: SocialUID, AnyAddress: true}, {UID: PersonalUID, Openings: []firewall.Opening{
				LiteralTo("127.0.0.1", 80), LiteralTo(Gateway, 0), LiteralTo(b.Addr, 22), OpeningTo("192.168.1.0/24", 0),
				OpeningTo("198.51.100.7/32", 8443)}, Ports: []uint16{22}}},
		}
		backend := open(t, m)

		asked := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(Gateway), netip.MustParseAddr(b.Addr),
			netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")}
		for _, h := range append(fence.Openings, fence.Proxies[1].Openings...) {
			asked = append(asked, h.To.Addr())
		}
		random := rand.New(rand.NewPCG(5, 3))
		for _, network := range firewall.Forbidden() {
			if !network.Addr().Is4() {
				continue
			}
			inside := network.Addr().As4()
			for i := network.Bits(); i < 32; i++ {
				inside[i/8] |= byte(random.IntN(2)) << (7 - i%8)
			}
			asked = append(asked, netip.AddrFrom4(inside))
			if before := network.Addr().Prev(); before.IsValid() {
				asked = append(asked, before)
			}
		}
		for range 50 {
			asked = append(asked, netip.AddrFrom4([4]byte{byte(1 + random.IntN(223)), byte(random.IntN(256)), 7, 7}))
		}
		// Of all public addresses, one half is listed for the one proxy, and one is pinned.
		var pins []firewall.Pin
		for i, addr := range asked {
			switch p := &fence.Proxies[1]; {
			case !firewall.Public(addr):
			case i%2 == 0:
				p.Listed = append(p.Listed, addr)
			default:
				pins = append(pins, firewall.Pin{UID: p.UID, Addr: addr})
			}
		}
		Sync(t, backend, firewall.State{Fence: fence})
		Must(t, backend.Pin(t.Context(), pins, time.Hour))
		passed, refused := 0, 0
		for _, addr := range asked {
			if first := addr.As4()[0]; first == 0 || first >= 224 {
				continue // TCP itself does not go there
			}
			for _, uid := range []uint32{PersonalUID, SocialUID} {
				to := netip.AddrPortFrom(addr, ports[random.IntN(len(ports))])
				verdict, err := fence.Judge(uid, to)
				Must(t, err)
				got := Answer(t, int(uid), to.String())
				if want := map[bool]string{true: "somebody", false: "refused"}[verdict.Passes]; got != want {
					t.Errorf("uid %x to %s: %s, judged %+v", uid, to, got, verdict)
				}
				if verdict.Passes {
					passed++
				} else {
					refused++
				}
			}
		}
		if passed < 30 || refused < 30 {
			t.Errorf("%d pass and %d do not: too few of a kind", passed, refused)
		}
	})
}
