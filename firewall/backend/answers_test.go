package backend

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/await"
)

// tunnel is a connection of an AppVM's, of which both ends are ours.
type tunnel struct{ client, server net.Conn }

// dig connects a to the proxy of this uid and port.
func dig(t *testing.T, a *Host, uid int, port string) tunnel {
	t.Helper()
	var l net.Listener
	As(t, uid, func() {
		var err error
		l, err = net.Listen("tcp4", net.JoinHostPort(Gateway, port))
		Must(t, err)
	})
	defer l.Close()
	dialled := make(chan error, 1)
	var client, server net.Conn
	go func() {
		dialled <- a.Do(func() (err error) {
			client, err = net.DialTimeout("tcp4", Gateway+":8100", 5*time.Second)
			return err
		})
	}()
	As(t, uid, func() { // who accepts owns the connection
		var err error
		server, err = l.Accept()
		Must(t, err)
	})
	Must(t, await.Value(t, "a connection", dialled))
	t.Cleanup(func() { client.Close(); server.Close() })
	return tunnel{client, server}
}

// carries sends a word from one end to the other.
func (tunnel) carries(t *testing.T, what string, from, to net.Conn) {
	t.Helper()
	buf := make([]byte, 4)
	to.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := from.Write([]byte("word")); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if _, err := to.Read(buf); err != nil || string(buf) != "word" {
		t.Errorf("%s: %q, %v", what, buf, err)
	}
}

// untrack deletes what is tracked of connections to port 8100, as qubes-firewall does when new rules forbid it.
func untrack(t *testing.T, a *Host) {
	t.Helper()
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, toProxyPort(a.Addr))
	if err != nil || n == 0 {
		t.Fatalf("%d deleted, %v", n, err)
	}
}

type toProxyPort string

func (from toProxyPort) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.SrcIP.String() == string(from) && flow.Forward.DstPort == TestConfig.ProxyPort
}

// TestTunnelsOutliveTheirTracking: another program takes a tunnel out of connection tracking, as Qubes' firewall.py does.
// The tunnel goes on, whoever is the next to send, also one of a process that no binding leads to any more.
func TestTunnelsOutliveTheirTracking(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, _ := NewSite(t)
		backend := open(t, m)
		bind := func(t *testing.T, b firewall.Backend, want ...firewall.Binding) { // the port stays a proxy's
			Sync(t, b, firewall.State{Bindings: want, Guarded: []uint16{61000}})
		}
		bind(t, backend, Personal)
		tun := dig(t, a, PersonalUID, "61000")
		tun.carries(t, "client first", tun.client, tun.server)
		tun.carries(t, "server first", tun.server, tun.client)
		untrack(t, a)
		tun.carries(t, "untracked, server next", tun.server, tun.client)
		tun.carries(t, "then the client", tun.client, tun.server)
		tun.carries(t, "then the server", tun.server, tun.client)

		tun = dig(t, a, PersonalUID, "61000")
		untrack(t, a)
		tun.carries(t, "untracked, client next", tun.client, tun.server)
		tun.carries(t, "then the server", tun.server, tun.client)

		tun = dig(t, a, PersonalUID, "61000")
		moved := Personal
		moved.To = netip.MustParseAddrPort(Gateway + ":61005")
		bind(t, backend, moved)
		untrack(t, a)
		tun.carries(t, "retired and untracked, server next", tun.server, tun.client)
		tun.carries(t, "then the client", tun.client, tun.server)

		// What ends such a connection forgets it too.
		client := netip.MustParseAddrPort(tun.client.LocalAddr().String())
		Must(t, tracking.Forget(Personal.To, []netip.AddrPort{client}))
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		Must(t, err)
		for _, f := range flows {
			if f.Forward.DstPort == client.Port() || f.Forward.SrcPort == client.Port() {
				t.Errorf("still tracked: %v", f)
			}
		}
	})
}

// TestConnectionsOfUntrackedTunnelsAreForgotten: what leads nowhere is found also where the proxy's packet was the first
// that connection tracking saw.
func TestConnectionsOfUntrackedTunnelsAreForgotten(t *testing.T) {
	EnterNamespace(t)
	a, _ := NewSite(t)
	Bind(t, open(t, Machines[1]), Personal)
	tun := dig(t, a, PersonalUID, "61000")
	untrack(t, a)
	tun.carries(t, "server next", tun.server, tun.client)
	if n, err := tracking.ForgetAll(TestConfig, []firewall.Binding{Personal}); n != 0 || err != nil {
		t.Errorf("forgot %d live connections, %v", n, err)
	}
	if n, err := tracking.ForgetAll(TestConfig, nil); n != 1 || err != nil {
		t.Errorf("forgot %d connections of an AppVM without a binding, %v", n, err)
	}
}

// TestRedirectedQuestionsPass: another program has the firewall VM's questions for names answered elsewhere, by nat in hook
// output. What the resolver sends to a name server passes with it, and nothing else that is redirected does.
func TestRedirectedQuestionsPass(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		NewSite(t)
		Attach(t, "uplink", Internet, "192.0.2.1", 1)
		Attach(t, "dns", "10.9.9.1", "10.9.9.2", 1).Do(func() error {
			for _, port := range []string{"53", "5353", "80"} {
				Listen(t, "10.9.9.1:"+port, "elsewhere")
			}
			return nil
		})
		const resolver, stranger = Internet, "198.51.100.1"
		Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: LinkIndex(t, "uplink"), Dst: Single(stranger)}))
		m.Shell(t, `nft -f - <<X
			table ip other {
				chain output {
					type nat hook output priority -100;
					ip daddr { `+resolver+`, `+stranger+` } tcp dport 53 dnat to 10.9.9.1:5353
					ip daddr { `+resolver+`, `+stranger+` } udp dport 53 dnat to 10.9.9.1:5353
					ip daddr { `+resolver+`, `+stranger+` } tcp dport 80 dnat to 10.9.9.1
				}
			}
X`)
		backend := open(t, m)
		Sync(t, backend, firewall.State{Fence: firewall.Fence{Resolvers: []netip.Addr{netip.MustParseAddr(resolver)}}})
		for to, want := range map[string]bool{resolver + ":53": true, resolver + ":80": false, stranger + ":53": false,
			stranger + ":80": false, "10.9.9.1:53": false, "10.9.9.1:5353": false} {
			if got := Opens(t, NamesUID, to, want); got != want {
				t.Errorf("%s opens: %t", to, got)
			}
		}
		if !AsksByUDP(t, NamesUID, resolver+":53") || AsksByUDP(t, NamesUID, stranger+":53") {
			t.Error("not the same by UDP")
		}
	})
}

// TestProxiesAnswerNobodyByIPv6: AppVMs are bound by their IPv4 addresses. A proxy that was taken over may listen at its port
// with IPv6 too, and no other AppVM gets there, nor does a host outside that connects from a port that is open to proxies, whatever
// other rules let in.
func TestProxiesAnswerNobodyByIPv6(t *testing.T) {
	for _, m := range Machines[1:] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			_, b := NewSite(t)
			six := func(name, addr string) error {
				return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0o644),
					exec.Command("ip", "addr", "add", addr, "dev", name, "nodad").Run())
			}
			Must(t, six("vif2.0", "fd00:2::1/64"))
			Must(t, b.Do(func() error { return six("eth0", "fd00:2::2/64") }))
			outside := Attach(t, "uplink", Internet, "192.0.2.1", 1)
			Must(t, six("uplink", "2001:db8::1/64"))
			Must(t, outside.Do(func() error { return six("eth0", "2001:db8::2/64") }))
			reaches := func(from *Host, addr, port string) bool {
				return from.Do(func() error {
					dialer := net.Dialer{Timeout: 3 * time.Second} // the guard refuses, or drops
					if from == outside {
						dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP("2001:db8::2"), Port: 443}
					}
					conn, err := dialer.Dial("tcp6", "["+addr+"]:"+port)
					if err == nil {
						Must(t, conn.(*net.TCPConn).SetLinger(0)) // its port is used again
						conn.Close()
					}
					return err
				}) == nil
			}
			backend := open(t, m)
			Sync(t, backend, firewall.State{Bindings: []firewall.Binding{Personal}, Guarded: []uint16{61001}})
			As(t, PersonalUID, func() { Listen(t, "[::]:61000", "a's proxy") })
			Listen(t, "[::]:61500", "a service")
			if !reaches(b, "fd00:2::1", "61500") || !reaches(outside, "2001:db8::1", "61500") {
				t.Fatal("no service is reached: this shows nothing")
			}
			if reaches(b, "fd00:2::1", "61000") {
				t.Error("an AppVM reaches another one's proxy")
			}
			if reaches(outside, "2001:db8::1", "61000") {
				t.Error("a host outside that is not pinned reaches a proxy")
			}
		})
	}
}

// TestPortsOfOthersAreNobodysBusiness: in the range of --listen-ports, the guard minds ports of proxies only.
func TestPortsOfOthersAreNobodysBusiness(t *testing.T) {
	for _, m := range Machines[1:] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t) // without rules that would reject the port themselves
			a, _ := NewSite(t)
			for _, addr := range []string{"127.0.0.1", Gateway} {
				Listen(t, addr+":61500", "a service")
			}
			As(t, PersonalUID, func() { Listen(t, Gateway+":61000", "a's proxy") })
			As(t, SocialUID, func() { Listen(t, Gateway+":61001", "starts") })
			As(t, SocialUID, func() { Listen(t, Gateway+":61002", "told to nobody") })
			Bind(t, open(t, m))
			Sync(t, open(t, m), firewall.State{Bindings: []firewall.Binding{Personal}, Guarded: []uint16{61001}})
			for _, to := range []string{"127.0.0.1:61500", Gateway + ":61500"} {
				if who := Answer(t, 0, to); who != "a service" {
					t.Errorf("from the firewall VM, %s: %s", to, who)
				}
			}
			if who := a.Reach(Gateway + ":61500"); who != "a service" {
				t.Errorf("from an AppVM: %s", who)
			}
			for _, to := range []string{Gateway + ":61000", Gateway + ":61001"} {
				if who := Answer(t, 0, to); who != "refused" {
					t.Errorf("from the firewall VM to a proxy, %s: %s", to, who)
				}
			}
			if Opens(t, 0, Gateway+":61002", false) {
				t.Error("a proxy whose port nobody has told yet grants a connection")
			}
			if who := a.Reach(Gateway + ":61001"); who != "closed out" {
				t.Errorf("to a proxy that starts: %s", who)
			}
		})
	}
}
