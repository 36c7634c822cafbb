package firewall

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
)

// tunnel is a connection of an AppVM's, of which both ends are ours.
type tunnel struct{ client, server net.Conn }

// dig connects a to the proxy of this uid and port.
func dig(t *testing.T, a *host, uid int, port string) tunnel {
	t.Helper()
	var l net.Listener
	as(t, uid, func() {
		var err error
		l, err = net.Listen("tcp4", net.JoinHostPort(gateway, port))
		must(t, err)
	})
	defer l.Close()
	dialled := make(chan error, 1)
	var client, server net.Conn
	go func() {
		dialled <- a.do(func() (err error) {
			client, err = net.DialTimeout("tcp4", gateway+":8100", 5*time.Second)
			return err
		})
	}()
	as(t, uid, func() { // who accepts owns the connection
		var err error
		server, err = l.Accept()
		must(t, err)
	})
	must(t, <-dialled)
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
func untrack(t *testing.T, a *host) {
	t.Helper()
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, toProxyPort(a.addr))
	if err != nil || n == 0 {
		t.Fatalf("%d deleted, %v", n, err)
	}
}

type toProxyPort string

func (from toProxyPort) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.SrcIP.String() == string(from) && flow.Forward.DstPort == testConfig.ProxyPort
}

// TestTunnelsOutliveTheirTracking: another program takes a tunnel out of connection tracking, as Qubes' firewall.py does.
// The tunnel goes on, whoever is the next to send, also one of a process that no binding leads to any more.
func TestTunnelsOutliveTheirTracking(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, _ := site(t)
		backend := m.open(t)
		bind := func(t *testing.T, b Backend, want ...Binding) { // the port stays a proxy's
			syncState(t, b, State{Bindings: want, Guarded: []uint16{61000}})
		}
		bind(t, backend, personal)
		tun := dig(t, a, personalUID, "61000")
		tun.carries(t, "client first", tun.client, tun.server)
		tun.carries(t, "server first", tun.server, tun.client)
		untrack(t, a)
		tun.carries(t, "untracked, server next", tun.server, tun.client)
		tun.carries(t, "then the client", tun.client, tun.server)
		tun.carries(t, "then the server", tun.server, tun.client)

		tun = dig(t, a, personalUID, "61000")
		untrack(t, a)
		tun.carries(t, "untracked, client next", tun.client, tun.server)
		tun.carries(t, "then the server", tun.server, tun.client)

		tun = dig(t, a, personalUID, "61000")
		moved := personal
		moved.To = netip.MustParseAddrPort(gateway + ":61005")
		bind(t, backend, moved)
		untrack(t, a)
		tun.carries(t, "retired and untracked, server next", tun.server, tun.client)
		tun.carries(t, "then the client", tun.client, tun.server)

		// What ends such a connection forgets it too.
		client := netip.MustParseAddrPort(tun.client.LocalAddr().String())
		must(t, Forget(personal.To, []netip.AddrPort{client}))
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		must(t, err)
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
	enterNamespace(t)
	a, _ := site(t)
	bind(t, machines[1].open(t), personal)
	tun := dig(t, a, personalUID, "61000")
	untrack(t, a)
	tun.carries(t, "server next", tun.server, tun.client)
	if n, err := testConfig.ForgetAll([]Binding{personal}); n != 0 || err != nil {
		t.Errorf("forgot %d live connections, %v", n, err)
	}
	if n, err := testConfig.ForgetAll(nil); n != 1 || err != nil {
		t.Errorf("forgot %d connections of an AppVM without a binding, %v", n, err)
	}
}

// TestRedirectedQuestionsPass: another program has the firewall VM's questions for names answered elsewhere, by nat in hook
// output. What a proxy sends to a resolver passes with it, and nothing else that is redirected does.
func TestRedirectedQuestionsPass(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		site(t)
		attach(t, "uplink", internet, "192.0.2.1", 1)
		attach(t, "dns", "10.9.9.1", "10.9.9.2", 1).do(func() error {
			for _, port := range []string{"53", "5353", "80"} {
				listen(t, "10.9.9.1:"+port, "elsewhere")
			}
			return nil
		})
		const resolver, stranger = internet, "198.51.100.1"
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: index(t, "uplink"), Dst: single(stranger)}))
		m.shell(t, `nft -f - <<X
			table ip other {
				chain output {
					type nat hook output priority -100;
					ip daddr { `+resolver+`, `+stranger+` } tcp dport 53 dnat to 10.9.9.1:5353
					ip daddr { `+resolver+`, `+stranger+` } udp dport 53 dnat to 10.9.9.1:5353
					ip daddr { `+resolver+`, `+stranger+` } tcp dport 80 dnat to 10.9.9.1
				}
			}
X`)
		backend := m.open(t)
		syncState(t, backend, State{Fence: Fence{Resolvers: []netip.Addr{netip.MustParseAddr(resolver)}}})
		for to, want := range map[string]bool{resolver + ":53": true, resolver + ":80": false, stranger + ":53": false,
			stranger + ":80": false, "10.9.9.1:53": false, "10.9.9.1:5353": false} {
			if got := opens(t, personalUID, to, want); got != want {
				t.Errorf("%s opens: %t", to, got)
			}
		}
		if !asksByUDP(t, personalUID, resolver+":53") || asksByUDP(t, personalUID, stranger+":53") {
			t.Error("not the same by UDP")
		}
	})
}

// TestProxiesAnswerNobodyByIPv6: AppVMs are bound by their IPv4 addresses. A proxy that was taken over may listen at its port
// with IPv6 too, and no other AppVM gets there, whatever other rules let in.
func TestProxiesAnswerNobodyByIPv6(t *testing.T) {
	for _, m := range machines[1:] {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			_, b := site(t)
			six := func(name, addr string) error {
				return errors.Join(os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("0"), 0o644),
					exec.Command("ip", "addr", "add", addr, "dev", name, "nodad").Run())
			}
			must(t, six("vif2.0", "fd00:2::1/64"))
			must(t, b.do(func() error { return six("eth0", "fd00:2::2/64") }))
			reaches := func(port string) bool {
				return b.do(func() error {
					conn, err := net.DialTimeout("tcp6", "[fd00:2::1]:"+port, 3*time.Second)
					if err == nil {
						conn.Close()
					}
					return err
				}) == nil
			}
			backend := m.open(t)
			syncState(t, backend, State{Bindings: []Binding{personal}, Guarded: []uint16{61001}})
			as(t, personalUID, func() { listen(t, "[::]:61000", "a's proxy") })
			listen(t, "[::]:61500", "a service")
			if !reaches("61500") {
				t.Fatal("no service is reached: this shows nothing")
			}
			if reaches("61000") {
				t.Error("an AppVM reaches another one's proxy")
			}
		})
	}
}

// TestPortsOfOthersAreNobodysBusiness: in the range of --listen-ports, the guard minds ports of proxies only.
func TestPortsOfOthersAreNobodysBusiness(t *testing.T) {
	for _, m := range machines[1:] {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t) // without rules that would reject the port themselves
			a, _ := site(t)
			for _, addr := range []string{"127.0.0.1", gateway} {
				listen(t, addr+":61500", "a service")
			}
			as(t, personalUID, func() { listen(t, gateway+":61000", "a's proxy") })
			as(t, socialUID, func() { listen(t, gateway+":61001", "starts") })
			as(t, socialUID, func() { listen(t, gateway+":61002", "told to nobody") })
			bind(t, m.open(t))
			syncState(t, m.open(t), State{Bindings: []Binding{personal}, Guarded: []uint16{61001}})
			for _, to := range []string{"127.0.0.1:61500", gateway + ":61500"} {
				if who := out(t, 0, to); who != "a service" {
					t.Errorf("from the firewall VM, %s: %s", to, who)
				}
			}
			if who := a.reach(gateway + ":61500"); who != "a service" {
				t.Errorf("from an AppVM: %s", who)
			}
			for _, to := range []string{gateway + ":61000", gateway + ":61001"} {
				if who := out(t, 0, to); who != "refused" {
					t.Errorf("from the firewall VM to a proxy, %s: %s", to, who)
				}
			}
			if opens(t, 0, gateway+":61002", false) {
				t.Error("a proxy whose port nobody has told yet grants a connection")
			}
			if who := a.reach(gateway + ":61001"); who != "closed out" {
				t.Errorf("to a proxy that starts: %s", who)
			}
		})
	}
}
