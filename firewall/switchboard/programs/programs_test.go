package programs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/lab"
)

const (
	first  = "10.138.1.1:61000"
	second = "10.138.1.1:61001"
	third  = "10.138.1.1:61002"
)

func TestAppVMReachesWhatItIsBoundToAndNothingElse(t *testing.T) {
	s := newSite(t)
	s.refuses(banking)
	s.expect(first)
	cookie, end := s.listen(first)
	if !s.kept(cookie) {
		t.Fatal("the socket is not kept")
	}
	var state uint32
	if err := s.expected.Lookup(place(first), &state); err != nil || state != handover.Listens {
		t.Errorf("it is noted as %d, %v", state, err)
	}
	s.refuses(banking) // nobody is bound
	s.bind(banking, cookie)
	s.answers(banking, first)
	s.refuses(mail)
	// Its own address, by another vif.
	must(t, s.bindings.Put(append(s.binding(mail)[:4:4], banking.IP.AsSlice()...), cookie))
	s.refuses(mail)

	// A connection stays with its process, wherever the binding leads afterwards.
	conn, err := s.Dial(t.Context(), banking.Name, "tcp4", fmt.Sprint(lab.Gateway, ":", port))
	must(t, err)
	defer conn.Close()
	s.expect(second)
	other, _ := s.listen(second)
	s.bind(banking, other)
	s.answers(banking, second)
	line := make([]byte, len(first))
	if _, err := conn.Read(line); err != nil || string(line) != first {
		t.Errorf("the connection from before is told %q, %v", line, err)
	}

	must(t, s.bindings.Delete(s.binding(banking)))
	s.refuses(banking)
	s.bind(banking, cookie)
	s.answers(banking, first)
	end()
	if s.kept(cookie) {
		t.Error("the socket of a process that has ended is kept")
	}
	s.refuses(banking)
}

// As long as nobody has said at which port AppVMs find their proxies, a program of others may serve there.
func TestNothingIsTakenWithoutAPort(t *testing.T) {
	s := newSite(t)
	must(t, s.port.Put(uint32(0), uint32(0)))
	addr := fmt.Sprint(lab.Gateway, ":", port)
	s.listen(addr)
	s.answers(banking, addr)
	s.bind(banking, 1)
	s.answers(banking, addr)
	must(t, s.port.Put(uint32(0), uint32(port)))
	s.refuses(banking) // its socket has gone
	s.answers(mail, addr)
	must(t, s.port.Put(uint32(0), uint32(port+1)))
	s.answers(banking, addr)
}

// An AppVM reaches a proxy by the port that all share, and not by the proxy's own; the daemon does, from loopback.
func TestProxysPortIsClosed(t *testing.T) {
	s := newSite(t)
	s.command("nft", "add rule ip qubes custom-input tcp dport 61000-61001 accept")
	s.listen(second) // of another program
	s.expect(first)
	cookie, _ := s.listen(first)
	s.bind(banking, cookie)
	s.answers(banking, first)
	dial := func(vm lab.VM, to string) error {
		conn, err := s.Dial(t.Context(), vm.Name, "tcp4", to)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, vm := range []lab.VM{banking, mail} {
		if err := dial(vm, first); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s comes to %s: %v", vm.Name, first, err)
		}
		must(t, dial(vm, second))
	}
	must(t, s.Do(func() error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, 3, 1)}}
		conn, err := dialer.Dial("tcp4", first)
		if err == nil {
			conn.Close()
		}
		return err
	}))
	must(t, s.expected.Delete(place(first)))
	must(t, dial(mail, first)) // so it was this that closed it
}

// A process of the cgroup that somebody owns listens at several addresses, in vain.
func TestUnexpectedSocketIsNotKept(t *testing.T) {
	s := newSite(t)
	unexpected, _ := s.listen(second)
	s.expect(first)
	elsewhere, _ := s.listen("127.0.0.1:61000")
	otherPort, _ := s.listen("10.138.1.1:61009")
	for _, cookie := range []uint64{unexpected, elsewhere, otherPort} {
		if s.kept(cookie) {
			t.Errorf("socket %d is kept", cookie)
		}
		s.bind(banking, cookie)
		s.refuses(banking)
	}
	expected, end := s.listen(first)
	if !s.kept(expected) {
		t.Fatal("the expected socket is not kept")
	}
	end()
	again, _ := s.listen(first) // in its place
	if s.kept(again) {
		t.Error("a second socket at the place is kept, although one was expected")
	}
	s.bind(banking, expected)
	s.refuses(banking)
	s.expect(third)
	last, _ := s.listen(third)
	s.bind(banking, last)
	s.answers(banking, third)
}

// A binding moves in one step: under load, nobody is refused, or led to the proxy of another AppVM.
func TestBindingMovesUnderLoad(t *testing.T) {
	s := newSite(t)
	var cookies [3]uint64
	for i, addr := range []string{first, second, third} {
		s.expect(addr)
		cookies[i], _ = s.listen(addr)
	}
	s.bind(banking, cookies[0])
	s.bind(mail, cookies[2])
	const connections = 2000
	var asking sync.WaitGroup
	var done atomic.Bool
	var told [2]atomic.Int64
	for range 2 {
		asking.Go(func() {
			for range connections {
				switch got, err := s.answer(banking); {
				case err != nil:
					t.Errorf("%s is refused: %v", banking.Name, err)
				case got == first:
					told[0].Add(1)
				case got == second:
					told[1].Add(1)
				default:
					t.Errorf("%s is told %q", banking.Name, got)
				}
			}
		})
	}
	asking.Go(func() {
		for !done.Load() {
			s.answers(mail, third)
		}
	})
	key, moves := s.binding(banking), 0
	for ; told[0].Load()+told[1].Load() < 2*connections && !t.Failed(); moves++ {
		must(t, s.bindings.Update(key, cookies[moves%2], ebpf.UpdateExist))
	}
	done.Store(true)
	asking.Wait()
	t.Logf("%d moves; connections: %d, %d", moves, told[0].Load(), told[1].Load())
}

// A real tinyproxy has its options on both sides of a tunnel, and connects with none of the bounds of another.
func TestOptionsOfConnections(t *testing.T) {
	s := newSite(t)
	s.Host("bank.example", netip.MustParseAddr("203.0.113.10"))
	addr := netip.MustParseAddrPort(first)
	s.expect(first)
	pid, cookie := s.tinyproxy(addr)
	s.bind(banking, cookie)
	if got := s.Get(banking.Name, "http://bank.example/"); got.Err != nil || got.Status != http.StatusOK {
		t.Fatalf("a page: %d, %v", got.Status, got.Err)
	}
	conn, err := s.Dial(t.Context(), banking.Name, "tcp4", fmt.Sprint(lab.Gateway, ":", port))
	must(t, err)
	defer conn.Close()
	fmt.Fprint(conn, "CONNECT echo.example:443 HTTP/1.1\r\nHost: echo.example\r\n\r\n")
	reply := make([]byte, 12)
	if _, err := io.ReadFull(conn, reply); err != nil || !bytes.HasPrefix(reply, []byte("HTTP/1.")) || !bytes.HasSuffix(reply, []byte(" 200")) {
		t.Fatalf("a tunnel: %q, %v", reply, err)
	}
	remotes := map[netip.Addr]bool{}
	for _, fd := range socketsOf(t, pid) {
		peer, err := unix.Getpeername(fd)
		if err != nil {
			continue // listens
		}
		remote := netip.AddrFrom4(peer.(*unix.SockaddrInet4).Addr)
		remotes[remote] = true
		for _, o := range []option{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 45}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3}, {unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
		} {
			if got, err := unix.GetsockoptInt(fd, int(o.level), int(o.name)); err != nil || got != int(o.value) {
				t.Errorf("connection with %v: option %d of level %d is %d, %v; want %d", remote, o.name, o.level, got, err, o.value)
			}
		}
	}
	if !remotes[banking.IP] || !remotes[lab.Echo] {
		t.Errorf("connections with %v", remotes)
	}
}

// socketsOf returns the sockets of another process.
func socketsOf(t *testing.T, pid int) (all []int) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	defer unix.Close(process)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, f := range files {
		if to, err := os.Readlink(f); err != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		n, err := strconv.Atoi(filepath.Base(f))
		must(t, err)
		fd, err := unix.PidfdGetfd(process, n, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		all = append(all, fd)
	}
	return all
}

// Nobody answers at an address. The kernel alone would try for more than two minutes.
func TestAttemptToConnectIsBounded(t *testing.T) {
	s := newSite(t)
	must(t, s.DoInternet(func() error {
		_, silent, _ := net.ParseCIDR("198.51.100.99/32")
		return netlink.RouteAdd(&netlink.Route{Dst: silent, Type: unix.RTN_BLACKHOLE, Table: unix.RT_TABLE_LOCAL})
	}))
	dialer, _, said := s.start(os.Args[0], "dial", "198.51.100.99:443")
	defer time.AfterFunc(10*connectMax, func() { _ = dialer.Process.Kill() }).Stop()
	if !said.Scan() || !strings.Contains(said.Text(), "connection timed out") {
		t.Errorf("the attempt ends with %q, %v", said.Text(), said.Err())
	}
}

// Programs of others, attached before and after ours, go on, and so do ours.
func TestBesideOthers(t *testing.T) {
	s := newSite(t)
	must(t, s.Attached.Close())
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 4})
	must(t, err)
	defer counts.Close()
	count := func(i uint32) (n uint64) {
		must(t, counts.Lookup(i, &n))
		return n
	}
	dir, err := os.Open(s.group)
	must(t, err)
	defer dir.Close()
	other := func(i int64) {
		counting := func(spec *ebpf.ProgramSpec, i int64) *ebpf.ProgramSpec {
			spec.Instructions = asm.Instructions{
				asm.LoadMapPtr(asm.R1, counts.FD()),
				asm.StoreImm(asm.R10, -4, i, asm.Word),
				asm.Mov.Reg(asm.R2, asm.R10),
				asm.Add.Imm(asm.R2, -4),
				asm.FnMapLookupElem.Call(),
				asm.JEq.Imm(asm.R0, 0, "out"),
				asm.Mov.Imm(asm.R1, 1),
				asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
				asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
				asm.Return(),
			}
			return spec
		}
		sockOps, err := attach(dir, ebpf.AttachCGroupSockOps, counting(&ebpf.ProgramSpec{Type: ebpf.SockOps}, i))
		must(t, err)
		t.Cleanup(func() { sockOps.Close() })
		must(t, s.Do(func() error {
			namespace, err := os.Open("/proc/thread-self/ns/net")
			must(t, err)
			defer namespace.Close()
			lookup, err := attach(namespace, ebpf.AttachSkLookup,
				counting(&ebpf.ProgramSpec{Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup}, i+1))
			if err == nil {
				t.Cleanup(func() { lookup.Close() })
			}
			return err
		}))
	}
	other(0)
	s.attach()
	other(2)
	s.expect(first)
	cookie, _ := s.listen(first)
	s.bind(banking, cookie)
	before := [4]uint64{}
	for i := range before {
		before[i] = count(uint32(i))
	}
	s.answers(banking, first)
	s.refuses(mail)
	for i := range before {
		if count(uint32(i)) == before[i] {
			t.Errorf("program %d of others did not run", i)
		}
	}
	must(t, s.Attached.Close())
	before[1] = count(1)
	s.refuses(banking)
	if count(1) == before[1] {
		t.Error("the program of others has gone with ours")
	}
}

func TestTooOld(t *testing.T) {
	for version, want := range map[uint32]string{
		5<<16 | 10<<8 | 234: "this is Linux 5.10, and Linux 6.1 is needed",
		6 << 16:             "this is Linux 6.0, and Linux 6.1 is needed",
		6<<16 | 1<<8:        "",
		6<<16 | 18<<8 | 5:   "",
		7 << 16:             "",
	} {
		said := ""
		if err := tooOld(version); err != nil {
			said = err.Error()
		}
		if said != want {
			t.Errorf("%x: %q, want %q", version, said, want)
		}
	}
}
