package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const personalUID, socialUID = 0x7089000b, 0x7089000c

func hole(to string, port uint16) Hole { return Hole{To: netip.MustParsePrefix(to), Port: port} }

// literal is a hole to one address that a person wrote.
func literal(to string, port uint16) Hole {
	addr := netip.MustParseAddr(to)
	return Hole{To: netip.PrefixFrom(addr, addr.BitLen()), Port: port, Literal: true}
}

// wide is a fence with something of everything.
func wide() Fence {
	return Fence{
		Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.2"), netip.MustParseAddr("10.139.1.1"),
			netip.MustParseAddr("fd00::53")},
		Ports:  []uint16{563, 443},
		Holes:  []Hole{hole("10.9.9.9/32", 3128), literal("10.9.9.9", 3128), literal("fd12::9", 0)},
		Barred: []string{"wg0"}, Leave: []string{"eth1", "eth0"},
		Proxies: []Proxy{
			{UID: socialUID},
			{UID: personalUID, Holes: []Hole{hole("192.168.1.0/24", 0), hole("192.168.0.0/16", 8080),
				hole("fd12::/64", 443), literal("127.0.0.1", 8080), literal("fd12::1", 443), literal("10.138.0.1", 0),
				literal("fd12::1", 0)}, Ports: []uint16{8443, 22}},
		},
	}
}

func TestFenceRules(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		b := m.open(t)
		empty := m.rules(t)
		want := State{Bindings: []Binding{personal}, Fence: wide()}
		if n := syncState(t, b, want); n == 0 {
			t.Error("no writes reported for a changed fence")
		}
		m.golden(t, "fenced")
		if n := syncState(t, b, want); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}
		again := wide()
		again.Proxies[0], again.Proxies[1] = again.Proxies[1], again.Proxies[0]
		again.Ports = []uint16{443, 80, 563}
		if n := syncState(t, b, State{Bindings: []Binding{personal}, Fence: again}); n != 0 {
			t.Errorf("%d writes for the same fence in another order", n)
		}
		fresh := m.open(t)
		syncState(t, fresh, want)
		m.golden(t, "fenced")
		syncState(t, fresh, State{})
		if got := m.rules(t); got != empty {
			t.Errorf("after all is gone:\n%s", diff(empty, got))
		}
	})
}

// TestWhatNftListsItLoads: a person, or netfilter-persistent, saves the rules that are there and loads them at the next start.
// If nft refuses one line of the file, the machine starts without a packet filter.
func TestWhatNftListsItLoads(t *testing.T) {
	for _, m := range machines[:2] {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			m.loadForeign(t)
			b := m.open(t)
			syncState(t, b, State{Bindings: []Binding{personal}, Fence: wide()})
			saved := run(t, "", "nft", "list", "ruleset")
			run(t, "flush ruleset\n"+saved, "nft", "-f", "-")
			if loaded := run(t, "", "nft", "list", "ruleset"); loaded != saved {
				t.Errorf("what is loaded differs from what was saved:\n%s", diff(saved, loaded))
			}
		})
	}
}

// The fence must not grow with the number of proxies.
func TestFenceOfManyProxies(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		b := m.open(t)
		lines := func() int { return strings.Count(m.rules(t), "\n") }
		before := lines()
		var f Fence
		for i := range 250 {
			f.Proxies = append(f.Proxies, Proxy{UID: testConfig.FirstUID + uint32(i)})
		}
		syncState(t, b, State{Fence: f})
		if after := lines(); after != before {
			t.Errorf("%d lines of rules with 250 proxies, %d with none", after, before)
		}
	})
}

func TestFenceRefused(t *testing.T) {
	enterNamespace(t)
	b := machines[1].open(t)
	good := wide()
	syncState(t, b, State{Fence: good})
	for want, spoil := range map[string]func(*Fence){
		"invalid IP is no address of a resolver": func(f *Fence) { f.Resolvers = append(f.Resolvers, netip.Addr{}) },
		"::ffff:10.0.0.1 is no address of a":     func(f *Fence) { f.Resolvers[0] = netip.MustParseAddr("::ffff:10.0.0.1") },
		"0 is no port":                           func(f *Fence) { f.Ports = append(f.Ports, 0) },
		"fence: 0 is no port":                    func(f *Fence) { f.Proxies[1].Ports[0] = 0 },
		"10.0.0.1/8 is no network":               func(f *Fence) { f.Holes[0] = hole("10.0.0.1/8", 0) },
		"invalid Prefix is no network":           func(f *Fence) { f.Proxies[1].Holes[0].To = netip.Prefix{} },
		"uid 0 is outside the fenced range":      func(f *Fence) { f.Proxies[0].UID = 0 },
		fmt.Sprintf("uid %d twice", personalUID): func(f *Fence) { f.Proxies[0].UID = personalUID },
	} {
		f := wide()
		spoil(&f)
		n, err := b.Sync(t.Context(), State{Fence: f}, func() {})
		if err == nil || !strings.Contains(err.Error(), want) || n != 0 {
			t.Errorf("%d writes, error %v; want %s", n, err, want)
		}
		if n := syncState(t, b, State{Fence: good}); n != 0 {
			t.Errorf("%s: %d writes back", want, n)
		}
	}
}

// as runs f with sockets that belong to a uid, as far as the fence sees it: the thread's fsuid (sock_alloc_file,
// nft_meta_get_eval_skugid).
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	must(t, unix.Setfsuid(uid))
	defer func() { must(t, unix.Setfsuid(0)) }()
	f()
}

// out is what comes of connecting from the firewall VM itself, as a uid.
func out(t *testing.T, uid int, to string) (who string) {
	t.Helper()
	as(t, uid, func() {
		conn, err := (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", to)
		switch {
		case closedOut(err):
			who = "refused"
		case err != nil:
			who = err.Error()
		default:
			defer conn.Close()
			if who, err = ask(conn.(*net.TCPConn)); err != nil {
				who = err.Error()
			}
		}
	})
	return who
}

func TestWhereProxiesReach(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, b := site(t)
		web := attach(t, "uplink", internet, "192.0.2.1", 1)
		lan := []string{"10.9.9.9", "100.64.0.9", "169.254.169.254", "172.16.0.9", "192.168.1.9", "198.18.0.9"}
		for _, addr := range lan {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: index(t, "uplink"), Dst: single(addr)}))
			must(t, web.do(func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: single(addr)})
			}))
		}
		web.do(func() error {
			for _, port := range []string{"22", "53", "80", "443", "563", "3128"} {
				listen(t, "0.0.0.0:"+port, "port "+port)
			}
			return nil
		})
		b.do(func() error { listen(t, b.addr+":80", "b"); return nil })
		listen(t, "127.0.0.1:80", "loopback")
		listen(t, gateway+":80", "gateway")
		if m.kind == "nftables" && m.foreign != "" { // what the hotplug script does
			m.shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		lo6 := func() (who string) { // IPv6
			as(t, personalUID, func() {
				conn, err := net.ListenPacket("udp6", "[::1]:0")
				if err != nil {
					who = err.Error()
					return
				}
				defer conn.Close()
				if _, err = conn.WriteTo([]byte("x"), conn.LocalAddr()); err != nil {
					who = "refused"
				}
			})
			return who
		}

		backend := m.open(t)
		expect := func(want string, uid int, to ...string) {
			t.Helper()
			for _, to := range to {
				if got := out(t, uid, to); got != want {
					t.Errorf("uid %d to %s: %s, want %s", uid, to, got, want)
				}
			}
		}
		refused := func(uid uint32) uint64 {
			t.Helper()
			all, err := backend.Refused(t.Context())
			must(t, err)
			return all[uid]
		}
		everywhere := []string{internet + ":22", internet + ":53", internet + ":563", internet + ":3128", "127.0.0.1:80",
			gateway + ":80", "0.0.0.0:80", b.addr + ":80"}
		for _, addr := range lan {
			everywhere = append(everywhere, addr+":80")
		}

		// Open is enough for the fence to stand.
		expect("port 80", personalUID, internet+":80")
		expect("port 443", personalUID, internet+":443")
		expect("refused", personalUID, everywhere...)
		expect("port 22", 0, internet+":22")
		expect("loopback", 0, "127.0.0.1:80")
		if who := lo6(); who != "refused" {
			t.Errorf("IPv6 to loopback: %q", who)
		}

		syncState(t, backend, State{Fence: Fence{Proxies: []Proxy{{UID: socialUID}, {UID: personalUID}}}})
		expect("refused", personalUID, everywhere...)
		fence := Fence{
			Resolvers: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, Ports: []uint16{563},
			Holes: []Hole{hole("172.16.0.0/12", 3128)},
			Proxies: []Proxy{{UID: socialUID}, {UID: personalUID, Holes: []Hole{
				literal("127.0.0.1", 80), literal(gateway, 0), literal(b.addr, 80), hole("192.168.1.0/24", 0)}}},
		}
		syncState(t, backend, State{Fence: fence})
		before := [2]uint64{refused(personalUID), refused(socialUID)}
		if int(before[0]) < len(everywhere) || before[1] != 0 {
			t.Errorf("counted so far: %v, want at least %d, and 0", before, len(everywhere))
		}
		expect("loopback", personalUID, "127.0.0.1:80")
		expect("gateway", personalUID, gateway+":80")
		expect("b", personalUID, b.addr+":80")
		expect("port 443", personalUID, "192.168.1.9:443")
		for _, uid := range []int{personalUID, socialUID} {
			expect("port 53", uid, "10.9.9.9:53")
			expect("port 3128", uid, "172.16.0.9:3128")
			expect("port 563", uid, internet+":563")
		}
		if n := refused(personalUID); n != before[0] {
			t.Errorf("%d refused where nothing was", n-before[0])
		}
		expect("refused", socialUID, "127.0.0.1:80", gateway+":80", b.addr+":80", "192.168.1.9:443")
		if n := refused(socialUID); n != 4 {
			t.Errorf("%d refused, want 4", n)
		}
		expect("refused", personalUID, "192.168.1.9:22", "127.0.0.1:22", "10.9.9.9:80", "172.16.0.9:80", internet+":53")

		// A port of one proxy is open to that one, at public addresses; what holes open is not opened at it.
		fence.Proxies[1].Ports = []uint16{22}
		syncState(t, backend, State{Fence: fence})
		expect("port 22", personalUID, internet+":22")
		expect("port 563", personalUID, internet+":563")
		expect("refused", socialUID, internet+":22")
		expect("refused", personalUID, internet+":3128", "10.9.9.9:22", "192.168.1.9:22", "127.0.0.1:22", gateway+":22", b.addr+":22")
		fence.Proxies[1].Ports = nil
		syncState(t, backend, State{Fence: fence})
		expect("refused", personalUID, internet+":22")

		// Who connects to a proxy gets its answers.
		as(t, socialUID, func() { listen(t, gateway+":61001", "b's proxy") })
		syncState(t, backend, State{Bindings: []Binding{social}, Fence: fence})
		if who := b.reach(gateway + ":8100"); who != "b's proxy" {
			t.Errorf("b reaches %s", who)
		}
		if who := a.reach(gateway + ":8100"); who != "closed out" {
			t.Errorf("a reaches %s", who)
		}

		// A hole that closes closes on what went through it.
		var conn net.Conn
		as(t, personalUID, func() {
			var err error
			conn, err = net.Dial("tcp", "192.168.1.9:443")
			must(t, err)
		})
		defer conn.Close()
		fence.Proxies[1].Holes = fence.Proxies[1].Holes[:3]
		syncState(t, backend, State{Bindings: []Binding{social}, Fence: fence})
		if who, err := ask(conn.(*net.TCPConn)); err == nil {
			t.Errorf("through a closed hole: %s", who)
		}
		expect("refused", personalUID, "192.168.1.9:443")
		must(t, backend.Remove(t.Context()))
		expect("port 22", personalUID, internet+":22")
	})
}
