package backend

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

func TestFenceRules(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		b := open(t, m)
		empty := m.Rules(t)
		want := firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide(), Askers: Askers}
		if n := Sync(t, b, want); n == 0 {
			t.Error("no writes reported for a changed fence")
		}
		m.Golden(t, "fenced")
		if n := Sync(t, b, want); n != 0 {
			t.Errorf("%d writes with nothing to do", n)
		}
		again := Wide()
		again.Proxies[0], again.Proxies[1] = again.Proxies[1], again.Proxies[0]
		again.Ports = []uint16{443, 80, 563}
		if n := Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: again, Askers: Askers}); n != 0 {
			t.Errorf("%d writes for the same fence in another order", n)
		}
		fresh := open(t, m)
		Sync(t, fresh, want)
		m.Golden(t, "fenced")
		Sync(t, fresh, firewall.State{})
		if got := m.Rules(t); got != empty {
			t.Errorf("after all is gone:\n%s", Diff(empty, got))
		}
	})
}

// TestWhatNftListsItLoads: a person, or netfilter-persistent, saves the rules that are there and loads them at the next start.
// If nft refuses one line of the file, the machine starts without a packet filter.
func TestWhatNftListsItLoads(t *testing.T) {
	for _, m := range Machines[:2] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.LoadForeign(t)
			b := open(t, m)
			Sync(t, b, firewall.State{Bindings: []firewall.Binding{Personal}, Fence: Wide(), Askers: Askers})
			Must(t, b.Pin(t.Context(), []firewall.Pin{{UID: PersonalUID, Addr: netip.MustParseAddr(Internet)}}, time.Hour))
			saved := Run(t, "", "nft", "list", "ruleset")
			Run(t, "flush ruleset\n"+saved, "nft", "-f", "-")
			left := regexp.MustCompile(`expires \S+`) // of what is pinned
			saved = left.ReplaceAllString(saved, "")
			if loaded := left.ReplaceAllString(Run(t, "", "nft", "list", "ruleset"), ""); loaded != saved {
				t.Errorf("what is loaded differs from what was saved:\n%s", Diff(saved, loaded))
			}
		})
	}
}

// The fence must not grow with the number of proxies.
func TestFenceOfManyProxies(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		b := open(t, m)
		lines := func() int { return strings.Count(m.Rules(t), "\n") }
		before := lines()
		var f firewall.Fence
		for i := range 250 {
			f.Proxies = append(f.Proxies, firewall.Proxy{UID: TestConfig.FirstUID + uint32(i)})
		}
		Sync(t, b, firewall.State{Fence: f})
		if after := lines(); after != before {
			t.Errorf("%d lines of rules with 250 proxies, %d with none", after, before)
		}
	})
}

func TestFenceRefused(t *testing.T) {
	EnterNamespace(t)
	b := open(t, Machines[1])
	good := Wide()
	Sync(t, b, firewall.State{Fence: good})
	for want, spoil := range map[string]func(*firewall.Fence){
		"invalid IP is no address of a resolver": func(f *firewall.Fence) { f.Resolvers = append(f.Resolvers, netip.Addr{}) },
		"::ffff:10.0.0.1 is no address of a":     func(f *firewall.Fence) { f.Resolvers[0] = netip.MustParseAddr("::ffff:10.0.0.1") },
		"0 is no port":                           func(f *firewall.Fence) { f.Ports = append(f.Ports, 0) },
		"fence: 0 is no port":                    func(f *firewall.Fence) { f.Proxies[1].Ports[0] = 0 },
		"10.0.0.1/8 is no network":               func(f *firewall.Fence) { f.Openings[0] = OpeningTo("10.0.0.1/8", 0) },
		"invalid Prefix is no network":           func(f *firewall.Fence) { f.Proxies[1].Openings[0].To = netip.Prefix{} },
		"uid 0 is outside the fenced range":      func(f *firewall.Fence) { f.Proxies[0].UID = 0 },
		fmt.Sprintf("uid %d twice", PersonalUID): func(f *firewall.Fence) { f.Proxies[0].UID = PersonalUID },
	} {
		f := Wide()
		spoil(&f)
		n, err := b.Sync(t.Context(), firewall.State{Fence: f}, func() {})
		if err == nil || !strings.Contains(err.Error(), want) || n != 0 {
			t.Errorf("%d writes, error %v; want %s", n, err, want)
		}
		if n := Sync(t, b, firewall.State{Fence: good}); n != 0 {
			t.Errorf("%s: %d writes back", want, n)
		}
	}
}

func TestWhereProxiesReach(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, b := NewSite(t)
		web := Attach(t, "uplink", Internet, "192.0.2.1", 1)
		lan := []string{"10.9.9.9", "100.64.0.9", "169.254.169.254", "172.16.0.9", "192.168.1.9", "198.18.0.9"}
		for _, addr := range lan {
			Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: LinkIndex(t, "uplink"), Dst: Single(addr)}))
			Must(t, web.Do(func() error {
				lo, err := netlink.LinkByName("lo")
				if err != nil {
					return err
				}
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: Single(addr)})
			}))
		}
		web.Do(func() error {
			for _, port := range []string{"22", "53", "80", "443", "563", "3128"} {
				Listen(t, "0.0.0.0:"+port, "port "+port)
			}
			return nil
		})
		b.Do(func() error { Listen(t, b.Addr+":80", "b"); return nil })
		Listen(t, "127.0.0.1:80", "loopback")
		Listen(t, Gateway+":80", "gateway")
		if m.Kind == "nftables" && m.Foreign != "" { // what the hotplug script does
			m.Shell(t, "nft add element ip qubes downstream '{ 10.137.0.11, 10.137.0.12 }'")
		}
		lo6 := func() (who string) { // IPv6
			As(t, PersonalUID, func() {
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

		backend := open(t, m)
		expect := func(want string, uid int, to ...string) {
			t.Helper()
			for _, to := range to {
				if got := Answer(t, uid, to); got != want {
					t.Errorf("uid %d to %s: %s, want %s", uid, to, got, want)
				}
			}
		}
		refused := func(uid uint32) uint64 {
			t.Helper()
			all, err := backend.Refused(t.Context())
			Must(t, err)
			return all[uid]
		}
		everywhere := []string{Internet + ":22", Internet + ":53", Internet + ":563", Internet + ":3128", "127.0.0.1:80",
			Gateway + ":80", "0.0.0.0:80", b.Addr + ":80"}
		for _, addr := range lan {
			everywhere = append(everywhere, addr+":80")
		}

		// Open is enough for the fence to stand.
		expect("refused", PersonalUID, Internet+":80", Internet+":443")
		expect("refused", PersonalUID, everywhere...)
		expect("port 22", 0, Internet+":22")
		expect("loopback", 0, "127.0.0.1:80")
		if who := lo6(); who != "refused" {
			t.Errorf("IPv6 to loopback: %q", who)
		}

		Sync(t, backend, firewall.State{Fence: firewall.Fence{Proxies: Everywhere(SocialUID, PersonalUID)}})
		expect("port 80", PersonalUID, Internet+":80")
		expect("port 443", PersonalUID, Internet+":443")
		expect("refused", PersonalUID, everywhere...)
		fence := firewall.Fence{
			Resolvers: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, Ports: []uint16{563},
			Openings: []firewall.Opening{OpeningTo("172.16.0.0/12", 3128)},
			Proxies: []firewall.Proxy{{UID: SocialUID, AnyAddress: true}, {UID: PersonalUID, AnyAddress: true, Openings: []firewall.Opening{
				LiteralTo("127.0.0.1", 80), LiteralTo(Gateway, 0), LiteralTo(b.Addr, 80), OpeningTo("192.168.1.0/24", 0)}}},
		}
		Sync(t, backend, firewall.State{Fence: fence})
		before := [2]uint64{refused(PersonalUID), refused(SocialUID)}
		if int(before[0]) < len(everywhere) || before[1] != 0 {
			t.Errorf("counted so far: %v, want at least %d, and 0", before, len(everywhere))
		}
		expect("loopback", PersonalUID, "127.0.0.1:80")
		expect("gateway", PersonalUID, Gateway+":80")
		expect("b", PersonalUID, b.Addr+":80")
		expect("port 443", PersonalUID, "192.168.1.9:443")
		for _, uid := range []int{PersonalUID, SocialUID} {
			expect("port 3128", uid, "172.16.0.9:3128")
			expect("port 563", uid, Internet+":563")
		}
		expect("port 53", NamesUID, "10.9.9.9:53")
		if n := refused(PersonalUID); n != before[0] {
			t.Errorf("%d refused where nothing was", n-before[0])
		}
		expect("refused", SocialUID, "127.0.0.1:80", Gateway+":80", b.Addr+":80", "192.168.1.9:443")
		if n := refused(SocialUID); n != 4 {
			t.Errorf("%d refused, want 4", n)
		}
		expect("refused", PersonalUID, "192.168.1.9:22", "127.0.0.1:22", "10.9.9.9:80", "10.9.9.9:53", "172.16.0.9:80", Internet+":53")

		// A port of one proxy is open to that one, at public addresses; what openings open is not opened at it.
		fence.Proxies[1].Ports = []uint16{22}
		Sync(t, backend, firewall.State{Fence: fence})
		expect("port 22", PersonalUID, Internet+":22")
		expect("port 563", PersonalUID, Internet+":563")
		expect("refused", SocialUID, Internet+":22")
		expect("refused", PersonalUID, Internet+":3128", "10.9.9.9:22", "192.168.1.9:22", "127.0.0.1:22", Gateway+":22", b.Addr+":22")
		fence.Proxies[1].Ports = nil
		Sync(t, backend, firewall.State{Fence: fence})
		expect("refused", PersonalUID, Internet+":22")

		// The resolver asks name servers, and reaches nothing else.
		expect("refused", NamesUID, Internet+":80", Internet+":53", "172.16.0.9:3128", "127.0.0.1:80", Gateway+":80", b.Addr+":80", "10.9.9.9:80")

		// Who connects to a proxy gets its answers.
		As(t, SocialUID, func() { Listen(t, Gateway+":61001", "b's proxy") })
		Sync(t, backend, firewall.State{Bindings: []firewall.Binding{Social}, Fence: fence})
		if who := b.Reach(Gateway + ":8100"); who != "b's proxy" {
			t.Errorf("b reaches %s", who)
		}
		if who := a.Reach(Gateway + ":8100"); who != "closed out" {
			t.Errorf("a reaches %s", who)
		}

		// An opening that closes closes on what went through it.
		var conn net.Conn
		As(t, PersonalUID, func() {
			var err error
			conn, err = net.Dial("tcp", "192.168.1.9:443")
			Must(t, err)
		})
		defer conn.Close()
		fence.Proxies[1].Openings = fence.Proxies[1].Openings[:3]
		Sync(t, backend, firewall.State{Bindings: []firewall.Binding{Social}, Fence: fence})
		if who, err := Ask(conn.(*net.TCPConn)); err == nil {
			t.Errorf("through a closed hole: %s", who)
		}
		expect("refused", PersonalUID, "192.168.1.9:443")
		Must(t, backend.Remove(t.Context()))
		expect("port 22", PersonalUID, Internet+":22")
	})
}
