package firewalltest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
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
	Gateway  = "10.138.0.1"
	Internet = "192.0.2.9"
)

// Host is another network namespace, with a thread that is in it.
type Host struct {
	Addr  string
	Calls chan func()
}

// Attach makes a host with this address behind a new interface of the current namespace. Each vif has the
// same gateway address, as with Qubes.
func Attach(t testing.TB, vif, addr, Gateway string, group int) *Host {
	t.Helper()
	h := &Host{Addr: addr, Calls: make(chan func())}
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
		for call := range h.Calls {
			call()
		}
	}()
	ns := <-opened
	t.Cleanup(func() { close(h.Calls); <-ended; ns.Close() })

	Must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: vif}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}))
	link, err := netlink.LinkByName(vif)
	Must(t, err)
	Must(t, netlink.LinkSetGroup(link, group))
	Must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: Single(Gateway)}))
	Must(t, netlink.LinkSetUp(link))
	Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: Single(addr)}))
	Must(t, h.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(eth0, &netlink.Addr{IPNet: Single(addr)}),
			netlink.LinkSetUp(eth0),
			netlink.RouteAdd(&netlink.Route{
				LinkIndex: eth0.Attrs().Index, Dst: Single(Gateway), Scope: netlink.SCOPE_LINK}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(Gateway)}),
			AwaitCarrier(h.Addr, "eth0"))
	}))
	Must(t, AwaitCarrier("the firewall VM", vif))
	return h
}

// AwaitCarrier waits until a link passes packets on. The end of a veth pair that came up first drops them until a worker of the
// kernel has seen to it (net/core/link_watch.c), and TCP waits a second to repeat a SYN.
func AwaitCarrier(where, name string) error {
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

func Single(addr string) *net.IPNet {
	return &net.IPNet{IP: net.ParseIP(addr).To4(), Mask: net.CIDRMask(32, 32)}
}

func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Do runs f on the host. A test must not end in there: the thread is the host.
func (h *Host) Do(f func() error) error {
	result := make(chan error)
	h.Calls <- func() { result <- f() }
	return <-result
}

// Dial connects and returns what the other side is; from 0 is any local port.
func (h *Host) Dial(from int, to string) (conn *net.TCPConn, who string, err error) {
	err = h.Do(func() error {
		// The timeout is there for the test to fail instead of hang; nothing waits for it.
		local := &net.TCPAddr{IP: net.ParseIP(h.Addr), Port: from}
		dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: local}
		return WhenFree(func() error {
			c, err := dialer.Dial("tcp4", to)
			if err == nil {
				conn = c.(*net.TCPConn)
			}
			return err
		})
	})
	if err == nil {
		who, err = Ask(conn)
	}
	return conn, strings.TrimSpace(who), err
}

// Reach is dial for those who need only the answer.
func (h *Host) Reach(to string) string {
	conn, who, err := h.Dial(0, to)
	if conn != nil {
		defer conn.Close()
	}
	if ClosedOut(err) {
		return "closed out"
	}
	if err != nil {
		return err.Error()
	}
	return who
}

// ClosedOut tells an immediate refusal from a timeout.
func ClosedOut(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EHOSTUNREACH)
}

func Ask(conn *net.TCPConn) (string, error) {
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintln(conn, "who are you?"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// WhenFree calls bind until the port is free. A program that is being started has a copy of each socket for a moment, until it is
// executed, so that a port is not always free when its socket was closed.
func WhenFree(bind func() error) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err := bind(); !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return err
		}
	}
}

// Listen answers every line with a name until it is closed. With mute, its connections vanish without a
// packet when it is closed, as when the peer's host makes sure that it sees none.
func Listen(t *testing.T, addr, name string) (stop func()) {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { // before the vif with this address is there
			unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
		})
	}}
	var l net.Listener
	if err := WhenFree(func() (err error) { l, err = config.Listen(t.Context(), "tcp", addr); return err }); err != nil {
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
				Vanish(c)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// NewSite is the AppVMs around one machine.
func NewSite(t *testing.T) (a, b *Host) {
	t.Helper()
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":     "1",
		"/proc/sys/net/ipv4/icmp_ratelimit": "0", // so that every rejected connection learns it
	} {
		Must(t, os.WriteFile(path, []byte(value), 0o644))
	}
	a = Attach(t, "vif1.0", "10.137.0.11", Gateway, 2)
	b = Attach(t, "vif2.0", "10.137.0.12", Gateway, 2)
	return a, b
}

func LinkIndex(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	Must(t, err)
	return link.Attrs().Index
}

// Vanish closes a connection without sending anything, so that connection tracking keeps it as established.
func Vanish(conn *net.TCPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
	}
	conn.Close()
}

// As runs f with sockets that belong to a uid, as far as the fence sees it: the thread's fsuid (sock_alloc_file,
// nft_meta_get_eval_skugid).
func As(t testing.TB, uid int, f func()) {
	t.Helper()
	Must(t, unix.Setfsuid(uid))
	defer func() { Must(t, unix.Setfsuid(0)) }()
	f()
}

// Answer is what comes of connecting from the firewall VM itself, as a uid.
func Answer(t *testing.T, uid int, to string) (who string) {
	t.Helper()
	As(t, uid, func() {
		conn, err := (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp", to)
		switch {
		case ClosedOut(err):
			who = "refused"
		case err != nil:
			who = err.Error()
		default:
			defer conn.Close()
			if who, err = Ask(conn.(*net.TCPConn)); err != nil {
				who = err.Error()
			}
		}
	})
	return who
}

// Opens reports whether a connection of this uid comes about. The fence refuses at once, its second chain in silence; so it
// waits long only for what is expected to open.
func Opens(t *testing.T, uid int, to string, expected bool) (opened bool) {
	t.Helper()
	patience := 200 * time.Millisecond
	if expected {
		patience = 20 * time.Second
	}
	As(t, uid, func() {
		conn, err := (&net.Dialer{Timeout: patience}).Dial("tcp", to)
		if opened = err == nil; opened {
			conn.Close()
		} else if expected {
			t.Log(err)
		}
	})
	return opened
}

// RulesOf finds the handles of a chain's rules, in their order.
func RulesOf(t *testing.T, table, chain string) (handles []string) {
	t.Helper()
	list := Run(t, "", "nft", append([]string{"-a", "list", "chain"}, append(strings.Fields(table), chain)...)...)
	for _, found := range regexp.MustCompile(`(?m)^\t\t.* # handle (\d+)$`).FindAllStringSubmatch(list, -1) {
		handles = append(handles, found[1])
	}
	return handles
}

// AsksByUDP reports whether a datagram of this uid leaves.
func AsksByUDP(t *testing.T, uid int, to string) (sent bool) {
	t.Helper()
	As(t, uid, func() {
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
