package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/names/ask/asktest"
	"vifproxy/names/wire"
)

// A process is a vifproxy-names, with the test in the place of the daemon and of proxies.
type process struct {
	testing.TB
	cmd     *exec.Cmd
	daemon  net.Conn
	orders  *wire.Encoder[wire.Order]
	port    uint16
	stderr  bytes.Buffer
	ended   chan error
	settled sync.WaitGroup // gates that were opened, and are not open yet
}

func build(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vifproxy-names")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// start starts the program, with nothing to find in its environment.
func start(t testing.TB, path string, args ...string) *process {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	p := &process{TB: t, ended: make(chan error, 1)}
	if p.daemon, err = net.FileConn(ours); err != nil {
		t.Fatal(err)
	}
	questions, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer questions.Close()
	p.port = questions.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	file, err := questions.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p.orders = wire.NewEncoder[wire.Order](p.daemon)
	p.cmd = exec.Command(path, args...)
	p.cmd.Env, p.cmd.Stderr, p.cmd.ExtraFiles = []string{}, &p.stderr, []*os.File{theirs, file}
	p.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	go p.listen()
	t.Cleanup(func() {
		p.daemon.Close()
		if err := await.Value(t, "the end of the resolver", p.ended); err != nil || p.stderr.Len() > 0 {
			t.Errorf("vifproxy-names: %v %s", err, p.stderr.Bytes())
		}
	})
	return p
}

// listen has everything pinned.
func (p *process) listen() {
	for decoder := wire.NewDecoder[wire.Report](p.daemon); ; {
		switch r, err := decoder.Decode(); {
		case err != nil:
			return
		case r.Opened != 0:
			p.settled.Done()
		case r.Pin != nil:
			p.order(wire.Order{Pinned: &wire.Done{ID: r.Pin.ID, OK: true}})
		}
	}
}

func (p *process) order(o wire.Order) {
	if err := p.orders.Encode(o); err != nil && !errors.Is(err, net.ErrClosed) {
		p.Error(err)
	}
}

// open opens gates for so many AppVMs that permit so many names each.
func (p *process) open(vms, names int) {
	for vm := range vms {
		var lines []string
		for name := range names {
			lines = append(lines, fmt.Sprintf(`^host%d\.vm%d\.example$`, name, vm))
		}
		p.settled.Add(1)
		p.order(wire.Order{Open: &wire.Gate{ID: int64(vm + 1), UID: uint32(vm + 1), At: at(vm), Language: "ere", Lines: lines}})
	}
	p.settled.Wait()
}

func at(vm int) netip.Addr { return netip.AddrFrom4([4]byte{127, 64, byte(vm >> 8), byte(vm) + 1}) }

// ask asks for a name until it is answered, as an AppVM's proxy.
func (p *process) ask(vm int, name string) *dnsmessage.Message {
	p.Helper()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at(vm), p.port)))
	if err != nil {
		p.Fatal(err)
	}
	defer conn.Close()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(rand.Uint32())},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	text, err := m.Pack()
	if err != nil {
		p.Fatal(err)
	}
	if _, err := conn.Write(text); err != nil {
		p.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		p.Fatalf("%s: %v", name, err)
	}
	if err := m.Unpack(buf[:n]); err != nil {
		p.Fatal(err)
	}
	return &m
}

// nameServer answers each question with four addresses.
func nameServer(t testing.TB) netip.Addr {
	t.Helper()
	n := rand.Uint32()
	addr := netip.AddrFrom4([4]byte{127, 1 + byte(n)%60, byte(n >> 8), 1 + byte(n>>16)%254})
	asktest.StartAt(t, netip.AddrPortFrom(addr, 53), func(q asktest.Query) {
		var answers []dnsmessage.Resource
		if q.Type == dnsmessage.TypeA {
			for i := range 4 {
				answers = append(answers, asktest.Address(q.Name, fmt.Sprintf("93.184.%d.%d", byte(rand.Uint32()), i), 300))
			}
		}
		q.Answer(answers...)
	})
	return addr
}

// resident returns how much memory the process has, in KiB.
func (p *process) resident() int {
	p.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		p.Fatalf("%s", status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		p.Fatal(err)
	}
	return n
}

// It ends when the daemon's end is closed, without a word.
func TestItEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	p := start(t, build(t))
	p.order(wire.Order{Settings: &wire.Settings{}})
	p.open(1, 1)
	p.daemon.Close()
	if err := <-p.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	p.ended <- nil
}

// Without descriptors, as when a person runs it, it says so.
func TestItIsTheDaemons(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(build(t)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "vifproxyd starts this program") {
		t.Errorf("%v: %s", err, out)
	}
}

// docs/performance.md says how much memory the resolver takes for one AppVM, and for 250 that have asked for 50 names each.
func TestMemory(t *testing.T) {
	t.Parallel()
	server := nameServer(t)
	program := build(t)
	for _, tt := range []struct{ vms, names, mostMiB int }{{1, 50, 12}, {250, 50, 64}} {
		p := start(t, program)
		p.order(wire.Order{Settings: &wire.Settings{Servers: []netip.Addr{server}, Dots: 1}})
		p.open(tt.vms, tt.names)
		var wait sync.WaitGroup
		began := time.Now()
		var took []time.Duration
		var mu sync.Mutex
		atOnce := min(tt.vms, 32) // a busy machine answers more than that too late
		for first := range atOnce {
			wait.Go(func() {
				for question := first; question < tt.vms*tt.names; question += atOnce {
					vm, name := question%tt.vms, question/tt.vms
					began := time.Now()
					if m := p.ask(vm, fmt.Sprintf("host%d.vm%d.example.", name, vm)); len(m.Answers) != 4 {
						t.Errorf("answered: %+v", m)
					}
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
				}
			})
		}
		wait.Wait()
		slices.Sort(took)
		got := p.resident()
		t.Logf("%d AppVMs × %d names: %d KiB; %v in all, the median of a question %v", tt.vms, tt.names, got, time.Since(began), took[len(took)/2])
		if got > tt.mostMiB<<10 {
			t.Errorf("%d AppVMs × %d names: %d KiB", tt.vms, tt.names, got)
		}
	}
}
