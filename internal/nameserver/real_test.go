package nameserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
)

const real = "vifproxy/cmd/vifproxy-names"

// nameServers answer for every name below example, by UDP; for names that begin with "long" by TCP only.
func nameServer(t testing.TB, addr string) {
	t.Helper()
	udp, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", net.JoinHostPort(addr, "53"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			if reply := answer(b[:n], false); reply != nil {
				_, _ = udp.WriteTo(reply, from)
			}
		}
	}()
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b := make([]byte, 1500)
				if n, err := conn.Read(b); err == nil && n > 2 {
					if reply := answer(b[2:n], true); reply != nil {
						_, _ = conn.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...))
					}
				}
			}()
		}
	}()
}

func answer(query []byte, tcp bool) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	name := q.Name.String()
	switch {
	case !strings.HasSuffix(name, ".example."):
		m.RCode = dnsmessage.RCodeNameError
	case strings.HasPrefix(name, "long") && !tcp:
		m.Truncated = true
	case q.Type == dnsmessage.TypeA:
		to := [4]byte{93, 184, 216, 34}
		if strings.HasPrefix(name, "private") {
			to = [4]byte{192, 168, 1, 1}
		}
		m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: to}}}
	}
	reply, _ := m.Pack()
	return reply
}

// ask sends a question for an address as a proxy does whose questions are sent on.
func ask(t testing.TB, at netip.AddrPort, name string, patience time.Duration) (addrs []netip.Addr, code dnsmessage.RCode, err error) {
	t.Helper()
	conn, err := net.Dial("udp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	query, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(query); err != nil {
		return nil, 0, err
	}
	b := make([]byte, 1500)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	n, err := conn.Read(b)
	if err != nil {
		return nil, 0, err
	}
	var reply dnsmessage.Message
	if err := reply.Unpack(b[:n]); err != nil || reply.ID != 7 {
		return nil, 0, fmt.Errorf("%d: %w", reply.ID, err)
	}
	for _, r := range reply.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			addrs = append(addrs, netip.AddrFrom4(a.A))
		}
	}
	return addrs, reply.RCode, nil
}

// A real resolver works in its confinement, in which one system call too many is its end: by UDP and by TCP, by IPv4 and by IPv6, for
// proxies and for the daemon. It answers a proxy what its gate permits, after that is pinned, and tells of the rest.
func TestRealResolver(t *testing.T) {
	const uid = 0x70890001
	nameServer(t, "127.0.0.53")
	nameServer(t, "::1")
	owned := make(chan int, 100)
	p := start(t, real, func(o *Options) { o.OnOwned = func(e wire.Event) { owned <- e.Count } })
	for _, server := range []string{"127.0.0.53", "::1"} {
		p.Configure(wire.Settings{Servers: []netip.Addr{netip.MustParseAddr(server)}, Dots: 1})
		for _, name := range []string{"bank.example", "long.example"} {
			addrs, err := p.LookUp(t.Context(), 0, server[2:]+"."+name)
			if err != nil || fmt.Sprint(addrs) != "[93.184.216.34]" {
				t.Errorf("the daemon asks %s for %s: %v, %v", server, name, addrs, err)
			}
		}
	}
	var e *Error
	if _, err := p.LookUp(t.Context(), 0, "bank.invalid"); !errors.As(err, &e) || e.Failure != wire.NoSuchName {
		t.Errorf("a name that is not there: %v", err)
	}
	id, err := p.Open(t.Context(), order(uid, `^bank\.example$`, `^long\.example$`, `^private\.example$`))
	if err != nil {
		t.Fatal(err)
	}
	at := p.Asker(uid)
	for _, name := range []string{"bank.example", "long.example"} {
		addrs, _, err := ask(t, at, name, 10*time.Second)
		if err != nil || fmt.Sprint(addrs) != "[93.184.216.34]" {
			t.Errorf("%s: %v, %v", name, addrs, err)
		}
		if got := p.book.String(); got != "pin 1888026625 93.184.216.34" {
			t.Errorf("when %s is answered, pinned are %q", name, got)
		}
	}
	if addrs, _, err := ask(t, at, "private.example", 10*time.Second); err != nil || len(addrs) > 0 {
		t.Errorf("a private address: %v, %v", addrs, err)
	}
	p.until("it is known why", func() bool {
		failure, _, ok := p.Why(uid, "private.example")
		return ok && failure == wire.Fence
	})
	if addrs, _, err := ask(t, at, "other.example", 10*time.Second); err == nil && len(addrs) > 0 {
		t.Errorf("a name that is not listed: %v", addrs)
	}
	if n := await.Value(t, "the news that it is owned", owned); n != 1 {
		t.Errorf("told of %d", n)
	}
	if addrs, _, err := ask(t, netip.AddrPortFrom(at.Addr().Next(), at.Port()), "bank.example", 300*time.Millisecond); err == nil {
		t.Errorf("nobody's address: %v", addrs)
	}
	p.Close(id)
	p.until("nothing is pinned", func() bool { return strings.Contains(p.book.String(), "unpin all of 1888026625 invalid IP") })
	if p.ends() > 0 {
		t.Error("it has ended")
	}
}

// A resolver that has just started is told which gates were closed a moment ago. So a question of a generation that has ended, which has
// waited in the socket, is no reason for an alarm, and what no gate ever permitted still is.
func TestClosedGatesAreRemembered(t *testing.T) {
	const uid = 0x70890001
	owned := make(chan string, 100)
	p := start(t, real, func(o *Options) { o.OnOwned = func(e wire.Event) { owned <- e.Name } })
	p.Configure(wire.Settings{Servers: []netip.Addr{netip.MustParseAddr("127.0.0.54")}, Dots: 1})
	for i := range 3 { // the last two are remembered
		id, err := p.Open(t.Context(), order(uid, fmt.Sprintf(`^closed%d\.example$`, i)))
		if err != nil {
			t.Fatal(err)
		}
		p.Close(id)
	}
	if _, err := p.Open(t.Context(), order(uid, `^bank\.example$`)); err != nil {
		t.Fatal(err)
	}
	pid := p.pid()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.until("another one runs", func() bool { return p.pid() != pid })
	for _, name := range []string{"closed2.example", "closed1.example", "never.example"} {
		if addrs, code, err := ask(t, p.Asker(uid), name, 10*time.Second); err != nil || code != dnsmessage.RCodeRefused {
			t.Errorf("%s: %v, %v, %v", name, addrs, code, err)
		}
	}
	if name := await.Value(t, "the news that it is owned", owned); name != "never.example" {
		t.Errorf("an alarm about %s", name)
	}
}

// What waits in the socket is answered by the next resolver, within 100 ms of the end of the one before.
func TestRealResolverIsKilled(t *testing.T) {
	const uid = 0x70890001
	nameServer(t, "127.0.0.53")
	p := start(t, real, nil)
	p.Configure(wire.Settings{Servers: []netip.Addr{netip.MustParseAddr("127.0.0.53")}, Dots: 1})
	var gates []time.Duration
	for i := range 100 {
		began := time.Now()
		if _, err := p.Open(t.Context(), order(uid+uint32(i), `^bank\.example$`)); err != nil {
			t.Fatal(err)
		}
		gates = append(gates, time.Since(began))
	}
	slices.Sort(gates)
	var times []time.Duration
	for range 10 {
		time.Sleep(provenAfter)
		if err := unix.Kill(p.pid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		addrs, _, err := ask(t, p.Asker(uid+50), "bank.example", 10*time.Second)
		times = append(times, time.Since(began))
		if err != nil || len(addrs) != 1 {
			t.Errorf("%v, %v", addrs, err)
		}
	}
	slices.Sort(times)
	t.Logf("a gate opens in %v, at most %v; from SIGKILL to the answer %v, at most %v; memory %s", gates[50], gates[99], times[5], times[9], memory(p.pid()))
}

// memory returns what a process has of its own.
func memory(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Pss:") {
			return strings.Join(strings.Fields(line)[1:], " ")
		}
	}
	return "?"
}
