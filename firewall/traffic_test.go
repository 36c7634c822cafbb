package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// On each machine, two AppVMs on vif1.0 and vif2.0, a host on the internet, and in the firewall VM listeners
// in place of proxies, which say what they are.
const (
	gateway  = "10.138.0.1"
	internet = "192.0.2.9"
)

// host is another network namespace, with a thread that is in it.
type host struct {
	addr  string
	calls chan func()
}

// attach makes a host with this address behind a new interface of the current namespace. Each vif has the
// same gateway address, as with Qubes.
func attach(t *testing.T, vif, addr, gateway string, group int) *host {
	t.Helper()
	h := &host{addr: addr, calls: make(chan func())}
	opened := make(chan netns.NsHandle)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: the thread ends, and with it the namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ns, err := netns.Get()
		if err != nil {
			t.Error(err)
		}
		opened <- ns
		for call := range h.calls {
			call()
		}
	}()
	ns := <-opened
	t.Cleanup(func() { close(h.calls); <-ended; ns.Close() })

	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: vif}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	link, err := netlink.LinkByName(vif)
	must(t, err)
	must(t, netlink.LinkSetGroup(link, group))
	must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: single(gateway)}))
	must(t, netlink.LinkSetUp(link))
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(addr)}))
	must(t, h.do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(eth0, &netlink.Addr{IPNet: single(addr)}),
			netlink.LinkSetUp(eth0),
			netlink.RouteAdd(&netlink.Route{
				LinkIndex: eth0.Attrs().Index, Dst: single(gateway), Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(gateway)}),
			awaitCarrier(h.addr, "eth0"))
	}))
	must(t, awaitCarrier("the firewall VM", vif))
	return h
}

// awaitCarrier waits until a link passes packets on. The end of a veth pair that came up first drops them until a worker of the
// kernel has seen to it (net/core/link_watch.c), and TCP waits a second to repeat a SYN.
func awaitCarrier(where, name string) error {
	for range 5000 {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("link %s of %s has no carrier after 5 seconds", name, where)
}

func single(addr string) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do runs f on the host. A test must not end in there: the thread is the host.
func (h *host) do(f func() error) error {
	result := make(chan error)
	h.calls <- func() { result <- f() }
	return <-result
}

// dial connects and returns what the other side is; from 0 is any local port.
func (h *host) dial(from int, to string) (conn *net.TCPConn, who string, err error) {
	err = h.do(func() error {
		// The timeout is there for the test to fail instead of hang; nothing waits for it.
		local := &net.TCPAddr{IP: net.ParseIP(h.addr), Port: from}
		dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: local}
		c, err := dialer.Dial("tcp4", to)
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	if err == nil {
		who, err = ask(conn)
	}
	return conn, strings.TrimSpace(who), err
}

// reach is dial for those who need only the answer.
func (h *host) reach(to string) string {
	conn, who, err := h.dial(0, to)
	if conn != nil {
		defer conn.Close()
	}
	if closedOut(err) {
		return "closed out"
	}
	if err != nil {
		return err.Error()
	}
	return who
}

// closedOut tells an immediate refusal from a timeout.
func closedOut(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH)
}

func ask(conn *net.TCPConn) (string, error) {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(conn, "who are you?"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// listen answers every line with a name until it is closed. With mute, its connections vanish without a
// packet when it is closed, as when the peer's host makes sure that it sees none.
func listen(t *testing.T, addr, name string) (stop func()) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { // before the vif with this address is there
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		})
	}}
	l, err := config.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Error(err)
		return func() {}
	}
	ended := make(chan struct{})
	var conns []*net.TCPConn
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c.(*net.TCPConn))
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, name)
				}
			}()
		}
	}()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			l.Close()
			<-ended
			for _, c := range conns {
				vanish(c)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// site is the AppVMs around one machine.
func site(t *testing.T) (a, b *host) {
	t.Helper()
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":     "1",
		"/proc/sys/net/ipv4/icmp_ratelimit": "0", // so that every rejected connection learns it
	} {
		must(t, os.WriteFile(path, []byte(value), 0o644))
	}
	a = attach(t, "vif1.0", "10.137.0.11", gateway, 2)
	b = attach(t, "vif2.0", "10.137.0.12", gateway, 2)
	return a, b
}

func TestWhoReachesWhat(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, b := site(t)
		web := attach(t, "uplink", internet, "192.0.2.1", 1)
		web.do(func() error { listen(t, internet+":8100", "a host on the internet"); return nil })
		listen(t, gateway+":61000", "a's proxy")
		listen(t, gateway+":61001", "b's proxy")
		backend := m.open(t)
		expect := func(h *host, to, want string) {
			t.Helper()
			if got := h.reach(to); got != want {
				t.Errorf("%s to %s: %s, want %s", h.addr, to, got, want)
			}
		}
		proxies := []uint16{61000, 61001}
		bind := func(t *testing.T, b Backend, want ...Binding) {
			syncState(t, b, State{Bindings: want, Guarded: proxies})
		}
		bind(t, backend)
		expect(a, gateway+":8100", "closed out")
		expect(a, gateway+":61000", "closed out")

		bind(t, backend, personal)
		expect(a, gateway+":8100", "a's proxy")
		expect(b, gateway+":8100", "closed out")
		expect(b, gateway+":61000", "closed out")
		expect(b, gateway+":61001", "closed out")

		bind(t, backend, personal, social)
		expect(a, gateway+":8100", "a's proxy")
		expect(b, gateway+":8100", "b's proxy")
		expect(a, gateway+":61001", "closed out")
		expect(b, gateway+":61000", "closed out")
		expect(a, "192.0.2.1:8100", "a's proxy") // any address of the firewall VM is the firewall VM
		expect(a, internet+":8100", "a host on the internet")
		expect(web, gateway+":61000", "closed out")

		// The right address on the wrong vif.
		must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: index(t, "vif2.0"), Dst: single(a.addr)}))
		must(t, b.do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			return errors.Join(err, netlink.AddrAdd(eth0, &netlink.Addr{IPNet: single(a.addr)}))
		}))
		if m.name != "qubes" { // there antispoof drops it before; nothing would come back to wait for
			spoofer := &host{addr: a.addr, calls: b.calls}
			expect(spoofer, gateway+":8100", "closed out")
			expect(spoofer, gateway+":61000", "closed out")
		}
		must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: index(t, "vif1.0"), Dst: single(a.addr)}))

		bind(t, backend, social)
		expect(a, gateway+":8100", "closed out")
		expect(b, gateway+":8100", "b's proxy")
		must(t, backend.Remove(t.Context()))
		expect(b, gateway+":8100", "closed out")
	})
}

func index(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	return link.Attrs().Index
}

// An open connection does not notice that its binding moves or goes, nor that the rules are loaded anew.
func TestEstablishedSurvives(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, _ := site(t)
		listen(t, gateway+":61000", "old proxy")
		listen(t, gateway+":61005", "new proxy")
		backend := m.open(t)
		bind(t, backend, personal)
		conn, _, err := a.dial(0, gateway+":8100")
		must(t, err)
		defer conn.Close()
		moved := personal
		moved.To = netip.MustParseAddrPort(gateway + ":61005")
		for _, step := range []struct {
			what string
			do   func()
			now  string
		}{
			{"bound", func() {}, "old proxy"},
			{"moved", func() { bind(t, backend, moved) }, "new proxy"},
			{"loaded again", func() { backend = m.open(t); bind(t, backend, moved) }, "new proxy"},
			{"unbound", func() { bind(t, backend) }, "closed out"},
		} {
			step.do()
			if who, err := ask(conn); err != nil || who != "old proxy" {
				t.Errorf("%s: connection has %q, %v", step.what, who, err)
			}
			if got := a.reach(gateway + ":8100"); got != step.now {
				t.Errorf("%s: new connection: %s, want %s", step.what, got, step.now)
			}
		}
	})
}

// While a binding moves, nobody is refused: a connection comes to the one proxy or to the other.
func TestMovesWithoutAGap(t *testing.T) {
	defer trackAtMost(1 << 20)() // it connects faster than anybody may else
	onEach(t, func(t *testing.T, m machine) {
		a, _ := site(t)
		listen(t, gateway+":61000", "one")
		listen(t, gateway+":61005", "other")
		backend := m.open(t)
		bind(t, backend, personal)
		moves := 500
		if m.name == "iptables-legacy" { // each takes a program
			moves = 50
		}
		over := make(chan struct{})
		refused := make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-over:
					refused <- n
					return
				default:
				}
				_ = a.do(func() error {
					conn, err := net.DialTimeout("tcp4", gateway+":8100", 20*time.Second)
					if err != nil {
						n++
						return err
					}
					return conn.Close()
				})
			}
		}()
		moved := personal
		for i := range moves {
			moved.To = netip.AddrPortFrom(personal.To.Addr(), uint16(61000+5*(i%2)))
			bind(t, backend, moved)
		}
		close(over)
		if n := <-refused; n > 0 {
			t.Errorf("%d connections refused while the binding moved %d times", n, moves)
		}
	})
}
