package backend

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/forward"
	"vifproxy/internal/await"
)

// A resolverSocket answers from the address at which it was asked, and says which that was.
type resolverSocket struct{ *net.UDPConn }

// resolve makes the socket of a resolver, as the daemon does: on the loopback only, and owned by the resolver's uid.
func resolve(t *testing.T, port int) resolverSocket {
	t.Helper()
	var s resolverSocket
	As(t, NamesUID, func() {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		Must(t, err)
		raw, err := conn.SyscallConn()
		Must(t, err)
		Must(t, raw.Control(func(fd uintptr) {
			Must(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1))
			Must(t, unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"))
		}))
		s = resolverSocket{conn}
	})
	t.Cleanup(func() { s.Close() })
	return s
}

// until is when a test gives up what it expects, or no longer waits for what must not come.
func until(expected bool) time.Time {
	if expected {
		return time.Now().Add(time.Minute)
	}
	return time.Now().Add(200 * time.Millisecond)
}

// answer takes one question, and answers with the address at which it came; "" if none comes.
func (s resolverSocket) answer(t *testing.T, expected bool) (at string) {
	t.Helper()
	s.SetDeadline(until(expected))
	buf, oob := make([]byte, 512), make([]byte, 512)
	_, oobn, _, from, err := s.ReadMsgUDPAddrPort(buf, oob)
	if err != nil {
		return ""
	}
	all, err := unix.ParseSocketControlMessage(oob[:oobn])
	if Must(t, err); len(all) != 1 {
		t.Fatalf("%d control messages", len(all))
	}
	to := [4]byte(all[0].Data[8:12]) // in_pktinfo.ipi_addr
	at = netip.AddrFrom4(to).String()
	_, _, err = s.WriteMsgUDPAddrPort([]byte(at), unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: to}), from)
	Must(t, err)
	return at
}

// TestTheKernelTellsWhoAsks: whatever address a proxy asks, its question comes to the resolver at the address of that proxy, and the answer
// comes from where it has asked.
func TestTheKernelTellsWhoAsks(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		NewSite(t)
		Attach(t, "uplink", Internet, "192.0.2.1", 1)
		backend := open(t, m)
		s := resolve(t, 5300)
		asks := func(uid int, network, to string, expected bool) (answer, at string) {
			As(t, uid, func() {
				conn, err := net.Dial(network, to)
				if err != nil {
					return
				}
				defer conn.Close()
				if _, err := conn.Write([]byte("who am I?")); err != nil {
					return
				}
				at = s.answer(t, expected)
				buf := make([]byte, 100)
				conn.SetDeadline(until(expected))
				n, err := conn.Read(buf)
				if answer = string(buf[:n]); err != nil {
					answer = err.Error()
				}
			})
			return answer, at
		}
		expect := func(uid int, network, to, want string) {
			t.Helper()
			if answer, at := asks(uid, network, to, want != ""); answer != want || at != want {
				t.Errorf("uid %x asks %s by %s: reaches %q, hears %q, want %q", uid, to, network, at, answer, want)
			}
		}
		places := []string{"127.0.0.1:53", "127.0.0.53:53", Internet + ":53", Gateway + ":53", "10.137.0.12:53", "255.1.2.3:53"}
		for _, to := range places {
			expect(PersonalUID, "udp4", to, "")
		}
		Sync(t, backend, firewall.State{Askers: Askers})
		for _, to := range places[:5] {
			expect(PersonalUID, "udp4", to, "127.64.0.1")
			expect(SocialUID, "udp4", to, "127.64.0.2")
			expect(PersonalUID+5, "udp4", to, "")
		}
		expect(PersonalUID, "udp4", "127.64.0.1:5300", "") // only what is translated
		expect(PersonalUID, "udp4", "127.64.0.2:5300", "")
		expect(PersonalUID, "udp4", "127.0.0.1:54", "")
		expect(PersonalUID, "udp6", "[::1]:53", "")
		if Opens(t, PersonalUID, "127.0.0.1:53", false) {
			t.Error("a question by TCP")
		}
		// The resolver only answers.
		other := resolve(t, 5301)
		for from, to := range map[string]string{"127.64.0.1": "127.0.0.1:5301", "127.64.0.3": "127.0.0.1:5301", "127.0.0.1": "127.0.0.1:5301"} {
			at := netip.MustParseAddr(from).As4()
			_, _, err := s.WriteMsgUDPAddrPort([]byte("!"), unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: at}), netip.MustParseAddrPort(to))
			if err == nil || other.answer(t, false) != "" {
				t.Errorf("the resolver sends from %s what nobody has asked", from)
			}
		}
		moved := []firewall.Asker{{UID: PersonalUID, At: netip.MustParseAddrPort("127.64.0.9:5300")}}
		Sync(t, backend, firewall.State{Askers: moved})
		expect(PersonalUID, "udp4", "127.0.0.1:53", "127.64.0.9")
		expect(SocialUID, "udp4", "127.0.0.1:53", "")
	})
}

// TestProxiesAskFromOnePort: a proxy's question comes to the resolver as its own, and is answered, from the port too from which another
// proxy has just asked the same server. Tracking remembers that for 5 s.
func TestProxiesAskFromOnePort(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		NewSite(t)
		backend := open(t, m)
		Sync(t, backend, firewall.State{Askers: Askers})
		s := resolve(t, 5300)
		from := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
		for i, uid := range []int{PersonalUID, SocialUID, PersonalUID, SocialUID} {
			As(t, uid, func() {
				var conn *net.UDPConn
				Must(t, WhenFree(func() (err error) {
					conn, err = net.DialUDP("udp4", from, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53})
					return err
				}))
				defer conn.Close()
				if _, err := conn.Write([]byte("who am I?")); err != nil {
					t.Errorf("question %d, of uid %x: %v", i, uid, err)
					return
				}
				want := map[int]string{PersonalUID: "127.64.0.1", SocialUID: "127.64.0.2"}[uid]
				if at := s.answer(t, true); at != want {
					t.Errorf("question %d, of uid %x, comes to %q", i, uid, at)
				}
				buf := make([]byte, 100)
				conn.SetDeadline(until(true))
				if n, err := conn.Read(buf); err != nil || string(buf[:n]) != want {
					t.Errorf("question %d, of uid %x, is answered with %q, %v", i, uid, buf[:n], err)
				}
			})
		}
	})
}

// TestForwardIsReadBesidePins: a pin is a new generation of the ruleset. However many there are, the chains of hook forward are read.
func TestForwardIsReadBesidePins(t *testing.T) {
	EnterNamespace(t)
	m := Machines[0]
	m.LoadForeign(t)
	backend := open(t, m)
	Sync(t, backend, firewall.State{})
	ns, err := netns.Get()
	Must(t, err)
	defer ns.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended, pins := make(chan struct{}), 0
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlocked: it may dial again
		if err := netns.Set(ns); err != nil {
			t.Error(err)
			return
		}
		for ; ctx.Err() == nil; pins++ {
			addr := netip.AddrFrom4([4]byte{93, 0, byte(pins >> 8), byte(pins)})
			if err := backend.Pin(ctx, []firewall.Pin{{UID: PersonalUID, Addr: addr}}, time.Hour); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	var reader forward.Reader
	for range 500 {
		if f, err := reader.Read(t.Context()); err != nil || len(f.Barred) > 0 {
			t.Errorf("%+v, %v", f, err)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	await.Value(t, "the end of pinning", ended)
	if pins < 100 {
		t.Errorf("%d pins meanwhile: this shows nothing", pins)
	}
}
