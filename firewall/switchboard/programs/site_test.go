package programs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// AppVMs of the lab.
var (
	banking = lab.VM{Name: "banking", IP: netip.MustParseAddr("10.137.0.11"), DomID: 7}
	mail    = lab.VM{Name: "mail", IP: netip.MustParseAddr("10.137.0.12"), DomID: 9}
)

const port = lab.ProxyPort

// TestMain plays a process of the proxies' cgroup, if it is told so.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "listen":
			listenAt(os.Args[2])
			return
		case "dial":
			dialTo(os.Args[2])
			return
		}
	}
	os.Exit(m.Run())
}

// listenAt answers each connection with the address that it listens at, until its standard input ends.
func listenAt(addr string) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp4", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listens")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				fmt.Fprintln(conn, addr)
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// dialTo says how an attempt to connect ends.
func dialTo(addr string) {
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	_, err := dialer.Dial("tcp4", addr)
	fmt.Println(err)
}

// A site is a firewall VM with two AppVMs, in which the programs are attached.
type site struct {
	t testing.TB
	*lab.Lab
	*Attached
	group string // of the proxies
}

func newSite(t testing.TB) *site {
	t.Helper()
	l, err := lab.New(t.Context(), lab.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	for _, vm := range []lab.VM{banking, mail} {
		must(t, l.Attach(vm))
	}
	s := &site{t: t, Lab: l, group: newGroup(t)}
	s.command("nft", "add rule ip qubes custom-input tcp dport 8100 accept")
	s.attach()
	t.Cleanup(func() { s.Attached.Close() })
	return s
}

func (s *site) attach() {
	s.t.Helper()
	must(s.t, s.Do(func() (err error) {
		s.Attached, err = Attach(s.group)
		return err
	}))
	must(s.t, s.port.Put(uint32(0), uint32(port)))
}

// newGroup makes a cgroup below the one that the test is in, at a mount of its own.
func newGroup(t testing.TB) string {
	t.Helper()
	mount := t.TempDir()
	must(t, unix.Mount("none", mount, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mount, unix.MNT_DETACH)) })
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	_, home, ok := strings.Cut("\n"+string(own), "\n0::")
	if !ok {
		t.Fatalf("in no cgroup: %s", own)
	}
	home, _, _ = strings.Cut(home, "\n")
	dir, err := os.MkdirTemp(filepath.Join(mount, home), "vifproxy-test-")
	must(t, err)
	t.Cleanup(func() {
		must(t, os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0))
		for errors.Is(os.Remove(dir), unix.EBUSY) {
			time.Sleep(time.Millisecond)
		}
	})
	return dir
}

// start runs a program of the firewall VM in the proxies' cgroup.
func (s *site) start(name string, args ...string) (*exec.Cmd, io.WriteCloser, *bufio.Scanner) {
	s.t.Helper()
	dir, err := os.Open(s.group)
	must(s.t, err)
	defer dir.Close()
	cmd := s.Command(s.t.Context(), name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	in, err := cmd.StdinPipe()
	must(s.t, err)
	out, err := cmd.StdoutPipe()
	must(s.t, err)
	cmd.Stderr = cmd.Stdout
	must(s.t, cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd, in, bufio.NewScanner(out)
}

// listen starts a process of the cgroup that listens at an address, and returns the cookie of its socket.
func (s *site) listen(addr string) (cookie uint64, end func()) {
	s.t.Helper()
	cmd, in, said := s.start(os.Args[0], "listen", addr)
	if !said.Scan() || said.Text() != "listens" {
		s.t.Fatalf("listen at %s: %q, %v", addr, said.Text(), said.Err())
	}
	return s.cookie(addr), func() {
		in.Close()
		_ = cmd.Wait()
	}
}

// tinyproxy starts a real one.
func (s *site) tinyproxy(addr netip.AddrPort) (pid int, cookie uint64) {
	s.t.Helper()
	config := filepath.Join(s.t.TempDir(), "tinyproxy.conf")
	must(s.t, os.WriteFile(config, fmt.Appendf(nil, "Listen %s\nPort %d\nTimeout 600\nMaxClients 20\n", addr.Addr(), addr.Port()), 0o644))
	cmd, _, _ := s.start("tinyproxy", "-d", "-c", config)
	for s.cookie(addr.String()) == 0 {
		time.Sleep(time.Millisecond)
	}
	return cmd.Process.Pid, s.cookie(addr.String())
}

// cookie returns that of the socket that listens at an address; 0 if there is none.
func (s *site) cookie(addr string) (cookie uint64) {
	s.t.Helper()
	want := netip.MustParseAddrPort(addr)
	must(s.t, s.Do(func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		for _, found := range sockets {
			at, _ := netip.AddrFromSlice(found.ID.Source.To4())
			const listen = 10 // TCP_LISTEN
			if found.State == listen && netip.AddrPortFrom(at, found.ID.SourcePort) == want {
				cookie = uint64(found.ID.Cookie[0]) | uint64(found.ID.Cookie[1])<<32
			}
		}
		return err
	}))
	return cookie
}

func (s *site) expect(addr string) {
	s.t.Helper()
	must(s.t, s.expected.Put(place(addr), uint32(1)))
}

// place is a key of the map expected.
func place(addr string) []byte {
	a := netip.MustParseAddrPort(addr)
	return binary.NativeEndian.AppendUint32(a.Addr().AsSlice(), uint32(a.Port()))
}

func (s *site) bind(vm lab.VM, cookie uint64) {
	s.t.Helper()
	must(s.t, s.bindings.Put(s.binding(vm), cookie))
}

// binding is a key of the map bindings.
func (s *site) binding(vm lab.VM) []byte {
	s.t.Helper()
	var index uint32
	must(s.t, s.Do(func() error {
		link, err := net.InterfaceByName(vm.Vif())
		if err == nil {
			index = uint32(link.Index)
		}
		return err
	}))
	return append(binary.NativeEndian.AppendUint32(nil, index), vm.IP.AsSlice()...)
}

// kept reports whether a socket is in the map.
func (s *site) kept(cookie uint64) bool {
	s.t.Helper()
	var found uint64
	err := s.sockets.Lookup(cookie, &found)
	if err == nil && found != cookie {
		s.t.Errorf("the map has socket %d under %d", found, cookie)
	}
	return err == nil
}

// answer returns what an AppVM is told at the proxies' port.
func (s *site) answer(vm lab.VM) (string, error) {
	conn, err := s.Dial(s.t.Context(), vm.Name, "tcp4", fmt.Sprint(lab.Gateway, ":", port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func (s *site) answers(vm lab.VM, want string) {
	s.t.Helper()
	if got, err := s.answer(vm); err != nil || got != want {
		s.t.Errorf("%s is told %q, %v; want %q", vm.Name, got, err, want)
	}
}

func (s *site) refuses(vm lab.VM) {
	s.t.Helper()
	if got, err := s.answer(vm); !errors.Is(err, unix.ECONNREFUSED) {
		s.t.Errorf("%s is told %q, %v; want to be refused", vm.Name, got, err)
	}
}

func (s *site) command(name string, args ...string) {
	s.t.Helper()
	if out, err := s.Command(s.t.Context(), name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name, args, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
