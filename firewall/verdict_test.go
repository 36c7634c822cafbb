package firewall

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What is said of the fence is what the kernel does: for addresses in and around all networks that it knows of.
func TestJudgeAgreesWithTheKernel(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		_, b := site(t)
		web := attach(t, "uplink", internet, "192.0.2.1", 1)
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: index(t, "uplink"), Gw: net.ParseIP(internet),
			Flags: int(netlink.FLAG_ONLINK)}))
		ports := []uint16{22, 53, 80, 443, 563, 3128, 8443}
		answer := func() error { // at any address
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			_, all, _ := net.ParseCIDR("0.0.0.0/0")
			for _, port := range ports {
				listen(t, "0.0.0.0:"+strconv.Itoa(int(port)), "somebody")
			}
			return errors.Join(netlink.LinkSetUp(lo), netlink.RouteAdd(&netlink.Route{
				LinkIndex: lo.Attrs().Index, Dst: all, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
		}
		must(t, web.do(answer))
		must(t, b.do(answer))
		for _, addr := range []string{"127.0.0.1", gateway, "192.0.2.1"} {
			for _, port := range ports {
				listen(t, net.JoinHostPort(addr, strconv.Itoa(int(port))), "somebody")
			}
		}
		if m.kind == "nftables" && m.foreign != "" { // what the hotplug script does
			m.shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		fence := Fence{
			Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.1")}, Ports: []uint16{563},
			Holes: []Hole{hole("10.9.9.0/24", 3128), hole("172.20.0.0/16", 0)},
			Proxies: []Proxy{{UID: socialUID}, {UID: personalUID, Holes: []Hole{
				literal("127.0.0.1", 80), literal(gateway, 0), literal(b.addr, 22), hole("192.168.1.0/24", 0),
				hole("198.51.100.7/32", 8443)}, Ports: []uint16{22}}},
		}
		backend := m.open(t)
		syncState(t, backend, State{Fence: fence})

		asked := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr(gateway), netip.MustParseAddr(b.addr),
			netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.1")}
		for _, h := range append(fence.Holes, fence.Proxies[1].Holes...) {
			asked = append(asked, h.To.Addr())
		}
		random := rand.New(rand.NewPCG(5, 3))
		for _, network := range forbidden {
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
		passed, refused := 0, 0
		for _, addr := range asked {
			if first := addr.As4()[0]; first == 0 || first >= 224 {
				continue // TCP itself does not go there
			}
			for _, uid := range []uint32{personalUID, socialUID} {
				to := netip.AddrPortFrom(addr, ports[random.IntN(len(ports))])
				verdict, err := fence.Judge(uid, to)
				must(t, err)
				got := out(t, int(uid), to.String())
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
