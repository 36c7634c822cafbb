package sockdiag

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// open returns a socket that listens on a port of an address, and accepts nothing.
func open(t *testing.T, addr netip.Addr) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(family(addr), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(addr, 0))); err != nil {
		t.Skip(err) // a machine without IPv6
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if v6, ok := bound.(*unix.SockaddrInet6); ok {
		return fd, netip.AddrPortFrom(addr, uint16(v6.Port))
	}
	return fd, netip.AddrPortFrom(addr, uint16(bound.(*unix.SockaddrInet4).Port))
}

func family(addr netip.Addr) int {
	if addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func sockaddr(at netip.AddrPort) unix.Sockaddr {
	if at.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

// TestConnecting fills the queue of a listener, so that a further connection is not answered.
func TestConnecting(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			_, at := open(t, netip.MustParseAddr(host))
			for range 4 {
				fd, err := unix.Socket(family(at.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				_ = unix.Connect(fd, sockaddr(at))
			}
			uid := uint32(os.Geteuid())
			got, err := Connecting(uid, at.Port())
			if err != nil || len(got) == 0 {
				t.Fatalf("%v, %v", got, err)
			}
			for _, s := range got {
				if s.Remote != at || s.UID != uid || s.Local.Addr() != at.Addr() {
					t.Errorf("%+v, want one to %s", s, at)
				}
			}
			if others, err := Connecting(uid+1, at.Port()); err != nil || len(others) != 0 {
				t.Errorf("of another uid: %v, %v", others, err)
			}
		})
	}
}

func TestListeners(t *testing.T) {
	_, at := open(t, netip.MustParseAddr("127.0.0.1"))
	all, err := ReadListeners()
	listed, ok := all[at]
	if err != nil || !ok || listed.UID != uint32(os.Geteuid()) || listed.Cookie == 0 {
		t.Errorf("%s: %+v, %v, %v", at, listed, ok, err)
	}
	if s, err := Listener(at); err != nil || s == nil || *s != listed {
		t.Errorf("%s: %+v, %v", at, s, err)
	}
	if s, err := Listener(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())); err != nil || s != nil {
		t.Errorf("where nobody listens: %+v, %v", s, err)
	}
	if four, err := IPv4(); err != nil || len(four) == 0 {
		t.Errorf("%v, %v", four, err)
	}
}
