package nameserver

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
)

// A resolver that is killed is followed by another one, which knows the gates. Open and LookUp wait for it.
func TestRestart(t *testing.T) {
	p := start(t, hostile, nil)
	const uid = 0x70890001
	heard := make(chan error, 1000)
	p.OnChange(func() { heard <- p.Problem() })
	if _, err := p.Open(t.Context(), order(uid, "1.1.1.1")); err != nil {
		t.Fatal(err)
	}
	p.works()
	var longest time.Duration
	for i := range 5 {
		time.Sleep(provenAfter) // or the next one is delayed
		pid := p.pid()
		began := time.Now()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.until("its end is known", func() bool { return p.ends() == i+1 })
		p.works()
		longest = max(longest, time.Since(began))
		if p.pid() == pid {
			t.Fatal("it is the same process")
		}
	}
	t.Logf("from SIGKILL to the next answer at most %v", longest)
	runs, ended := 0, 0
	for len(heard) > 0 {
		if err := <-heard; err == nil {
			runs++
		} else if strings.Contains(err.Error(), "names are not answered: signal: killed") {
			ended++
		}
	}
	if runs < 5 || ended == 0 {
		t.Errorf("heard %d times that it runs, and %d times that it does not", runs, ended)
	}
	p.until("the gate is open again", func() bool { return strings.Count(p.book.String(), "pin 1888026625 1.1.1.1") == 6 })
	if !strings.Contains(p.log.String(), `err="signal: killed"`) {
		t.Error("not told why")
	}
}

// A gate that no resolver could take is refused, before it ends one after the other.
func TestAGateThatIsTooLong(t *testing.T) {
	s := &Server{askers: map[uint32]netip.Addr{}}
	if _, err := s.Open(t.Context(), order(1, strings.Repeat("x", gateMax))); err == nil {
		t.Error("no error")
	}
}

// While no resolver can start, Open waits and then says why, Close works, and the tries are not too many.
func TestNoResolver(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "vifproxy-names")
	if err := os.WriteFile(broken, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := start(t, hostile, func(o *Options) { o.Program = broken })
	p.until("it ends again and again", func() bool { return strings.Count(p.log.String(), "the resolver says") >= 4 })
	if n := p.ends(); n != 1 {
		t.Errorf("told %d times", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := p.Open(ctx, order(0x70890001)); err == nil || !strings.Contains(err.Error(), "names are not answered: exit status 127; it said \"vifproxy-confine: errno 8: execute vifproxy-names: exec format error\"") {
		t.Errorf("open: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.LookUp(ctx, 0, "bank.example"); err == nil || !strings.Contains(err.Error(), "names are not answered") {
		t.Errorf("look up: %v", err)
	}
	if addrs, err := p.LookUp(ctx, 0, "192.0.2.1"); err != nil || fmt.Sprint(addrs) != "[192.0.2.1]" {
		t.Errorf("an address is no name: %v, %v", addrs, err)
	}
	p.mu.Lock()
	gates := len(p.gates)
	p.mu.Unlock()
	if gates != 0 {
		t.Errorf("%d gates stay", gates)
	}
}

// Pins are in the kernel before the resolver is told so, and go with the gates that permitted them.
func TestPins(t *testing.T) {
	const uid, other = 0x70890001, 0x70890002
	p := start(t, hostile, nil)
	open := func(uid uint32, addrs ...string) int64 {
		t.Helper()
		id, err := p.Open(t.Context(), order(uid, addrs...))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	has := func(lines ...string) {
		t.Helper()
		want := strings.Join(lines, "\n")
		p.until(want+" but "+p.book.String(), func() bool { return p.book.String() == want })
	}
	first := open(uid, "1.1.1.1")
	has("pin 1888026625 1.1.1.1")
	p.until("it is told", func() bool { _, why, _ := p.Why(uid, "pinned"); return why == "pinned" })
	second := open(uid, "2.2.2.2")
	lines := []string{"pin 1888026625 1.1.1.1", "pin 1888026625 2.2.2.2"}
	has(lines...)
	// The resolver that runs takes away what only that gate permitted; this one does not.
	p.Close(first)
	p.Close(first)
	p.works()
	has(lines...)
	p.book.mu.Lock()
	p.book.fails = 3 // it is tried until it succeeds
	p.book.mu.Unlock()
	p.Close(second)
	third := open(other, "3.3.3.3")
	lines = append(lines, "unpin all of 1888026625 invalid IP", "pin 1888026626 3.3.3.3")
	has(lines...)

	// What an earlier resolver had pinned goes with any gate, because the one that runs does not know of it.
	fourth := open(other)
	if err := unix.Kill(p.pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	lines = append(lines, "pin 1888026626 3.3.3.3") // by the next resolver, which has the gate again
	has(lines...)
	if err := unix.Kill(p.pid(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.Close(third)
	p.Close(fourth)
	lines = append(lines, "unpin all of 1888026626 invalid IP")
	has(lines...)

	// If the kernel has not taken it, the resolver is told.
	p.until("another one runs", func() bool { return p.ends() == 2 && p.Problem() == nil })
	p.book.mu.Lock()
	p.book.fails = 1
	p.book.mu.Unlock()
	open(uid, "4.4.4.4")
	p.until("it is told", func() bool { _, why, _ := p.Why(uid, "pinned"); return why == "not pinned" })
	has(lines...)
}

// Pins of a resolver that has ended go when one of several gates of the uid is closed.
func TestPinsOfAnEarlierResolver(t *testing.T) {
	b := new(book)
	p := newPins(b)
	go p.work(t.Context())
	a := &session{over: make(chan struct{}), more: make(chan struct{}, 1)}
	z := &session{over: make(chan struct{}), more: make(chan struct{}, 1)}
	pin := func(r *session, addrs ...string) {
		w := &wire.Pin{ID: 1, UID: 5, Seconds: 90}
		for _, addr := range addrs {
			w.Addrs = append(w.Addrs, netip.MustParseAddr(addr))
		}
		p.pin(r, w)
	}
	pin(a, "1.1.1.1")
	pin(a, "2.2.2.2")
	pin(z, "2.2.2.2")
	pin(z, "3.3.3.3")
	p.closeSome(5, z)
	pin(z, "4.4.4.4")
	p.closeSome(5, nil)
	p.closeSome(5, nil)
	for over := time.Now().Add(10 * time.Second); !strings.Contains(b.String(), "unpin 5 4.4.4.4"); time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			t.Fatal(b)
		}
	}
	before, after, _ := strings.Cut(b.String(), "\npin 5 4.4.4.4\n")
	if !strings.HasSuffix(before, "\nunpin 5 1.1.1.1") || strings.Count(before, "unpin") != 1 || strings.Count(after, "unpin 5 ") != 3 {
		t.Error(b)
	}
	// An answer for each, of few calls.
	z.queueMu.Lock()
	defer z.queueMu.Unlock()
	if len(z.queue) != 3 || !z.queue[2].Pinned.OK {
		t.Errorf("%d answers", len(z.queue))
	}
}

// However many pins a resolver makes for a uid, they are bounded.
func TestPinsAreBounded(t *testing.T) {
	p := newPins(new(book))
	r := &session{over: make(chan struct{}), more: make(chan struct{}, 1)}
	for i := range pinnedMax + 10 {
		p.pinAll(t.Context(), []pinWork{{session: r, pin: &wire.Pin{ID: 1, UID: 5, Seconds: 1,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{1, 2, byte(i >> 8), byte(i)})}}}})
	}
	refused := 0
	for _, o := range r.queue {
		if !o.Pinned.OK {
			refused++
		}
	}
	if refused != 10 || len(p.pinned[5]) != pinnedMax {
		t.Errorf("%d refused, %d pinned", refused, len(p.pinned[5]))
	}
}

// The socket gets what is sent over the loopback, and nothing that comes by another interface.
func TestOnlyTheLoopbackReachesTheSocket(t *testing.T) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "in"}, PeerName: "out"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	for name, addr := range map[string]string{"in": "10.0.0.1/24", "out": "10.0.0.2/24"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		a, _ := netlink.ParseAddr(addr)
		if err := netlink.AddrAdd(link, a); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	var s Server
	if err := s.openSocket(); err != nil {
		t.Fatal(err)
	}
	defer s.socket.Close()
	conn, err := net.FilePacketConn(s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A packet that comes in by "in": it is sent by "out" as if to a neighbour, with the address of "in" on the link.
	in, err := net.InterfaceByName("in")
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.InterfaceByName("out")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	send := func(port uint16) {
		frame := udpFrame(in.HardwareAddr, out.HardwareAddr, netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.1"), port, "stranger")
		to := &unix.SockaddrLinklayer{Ifindex: out.Index, Halen: 6, Addr: [8]byte(append(in.HardwareAddr, 0, 0))}
		if err := unix.Sendto(raw, frame, 0, to); err != nil {
			t.Fatal(err)
		}
	}
	// An ordinary socket gets it, so this test can fail.
	ordinary, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ordinary.Close()
	b := make([]byte, 100)
	await.Success(t, "an ordinary socket reads it", func() error { // the pair may have come up a moment ago, and drop what it is given
		send(ordinary.LocalAddr().(*net.UDPAddr).AddrPort().Port())
		_ = ordinary.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := ordinary.Read(b); err != nil || string(b[:n]) != "stranger" {
			return fmt.Errorf("it reads %q, %v", b[:n], err)
		}
		return nil
	})
	send(s.port)
	friend, err := net.Dial("udp4", fmt.Sprintf("127.64.0.1:%d", s.port))
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	if _, err := friend.Write([]byte("friend")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, _, err := conn.ReadFrom(b); err != nil || string(b[:n]) != "friend" {
		t.Errorf("the socket reads %q, %v", b[:n], err)
	}
}

// udpFrame returns an Ethernet frame with a UDP packet over IPv4. The kernel takes a UDP checksum of 0 for none.
func udpFrame(to, from net.HardwareAddr, src, dst netip.Addr, port uint16, text string) []byte {
	n := len(text)
	ip := slices.Concat([]byte{0x45, 0, 0, byte(28 + n), 0, 0, 0, 0, 64, 17, 0, 0}, src.AsSlice(), dst.AsSlice())
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = ^(sum&0xffff + sum>>16)
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	udp := []byte{0x30, 0x39, byte(port >> 8), byte(port), 0, byte(8 + n), 0, 0}
	return slices.Concat(to, from, []byte{0x08, 0x00}, ip, udp, []byte(text))
}

// Each uid has an address of its own, always the same, within 127.64.0.0/10.
func TestAskers(t *testing.T) {
	s := &Server{port: 53535, askers: map[uint32]netip.Addr{}}
	within := netip.MustParsePrefix("127.64.0.0/10")
	seen := map[netip.AddrPort]bool{}
	for uid := range uint32(100_000) {
		at := s.Asker(0x70000000 + uid)
		if seen[at] || !within.Contains(at.Addr()) || at.Port() != 53535 || s.Asker(0x70000000+uid) != at {
			t.Fatalf("uid %d: %v", uid, at)
		}
		seen[at] = true
	}
	if first := s.Asker(0x70000000).Addr(); first != netip.MustParseAddr("127.64.0.1") {
		t.Error(first)
	}
}

func TestFailures(t *testing.T) {
	f, now := failures{}, time.Now()
	event := func(uid uint32, name string) *wire.Event {
		return &wire.Event{UID: uid, Name: name, Failure: wire.Silent, Why: "of " + name}
	}
	for i := range failuresMax + 1 {
		f.add(event(1, fmt.Sprintf("Host%d.example.", i)), now)
	}
	if _, ok := f.last(1, "host0.example", now); ok {
		t.Error("too many are known")
	}
	if x, ok := f.last(1, "host1.EXAMPLE", now); !ok || x.why != "of Host1.example." {
		t.Error("it is not known")
	}
	if _, ok := f.last(1, "host1.example", now.Add(failureMemory+1)); ok {
		t.Error("it is known for too long")
	}
	for uid := range uint32(forgetAt + 10) {
		f.add(event(uid, "x"), now.Add(time.Duration(uid)*time.Second))
	}
	if len(f) > 100 {
		t.Errorf("%d uids", len(f))
	}
}

// To the fence, a packet is of who made its socket. So the resolver sends nothing in the name of the daemon.
func TestTheSocketBelongsToTheResolver(t *testing.T) {
	file, err := listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var of, ours unix.Stat_t
	if err := cmp.Or(unix.Fstat(int(file.Fd()), &of), unix.Stat("/proc/thread-self", &ours)); err != nil {
		t.Fatal(err)
	}
	if of.Uid != tinyproxy.NamesUID || ours.Uid != uint32(os.Geteuid()) {
		t.Errorf("the socket belongs to %d, this thread to %d", of.Uid, ours.Uid)
	}
}

// That resolvers cannot start is told again while it lasts, ever less often, and at once if the reason is another one.
func TestTheSameReason(t *testing.T) {
	var r repeated
	now, told := time.Unix(0, 0), []string{}
	for range 4 * 3600 {
		if r.due("it is damaged", now) {
			told = append(told, now.UTC().Format("15:04:05"))
		}
		now = now.Add(time.Second)
	}
	if want := "[00:00:00 00:00:30 00:01:30 00:03:30 00:07:30 00:15:30 00:31:30 01:03:30 02:03:30 03:03:30]"; fmt.Sprint(told) != want {
		t.Errorf("told at %v, want %s", told, want)
	}
	if !r.due("it is missing", now) || r.due("it is missing", now) || !r.due("it is damaged", now) {
		t.Error("another reason")
	}
}
