package tinyproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Intervals between looks at the socket table while a proxy starts; it takes 2 or 3 ms when all is well. Where many start
// at once, each takes as many times longer, and is looked at as many times less often: looks cost what starts need.
const (
	firstLook = 300 * time.Microsecond
	usual     = 15 * time.Millisecond // so long looks are firstLook apart, and then grow apart
	maxLook   = 20 * time.Millisecond
)

// The library finds out the machine's byte order at its first use, without a lock: let that be now.
func init() { nl.NativeEndian() }

// States of a socket, include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpSynRecv     = 3
	tcpCloseWait   = 8
	tcpListen      = 10
)

// awaitReady returns when the process listens where it should and has its start behind it. Looking into the
// kernel's socket table makes no connection, which would be logged as a client's, and tells who listens.
//
// Every version listens before it has finished: 1.10 may still exit because of its configuration
// (child_pool_create in src/main.c), and SIGTERM would kill it without a word. The handler for SIGTERM is
// the last thing that all of them set up.
func (p *Proxy) awaitReady(ctx context.Context) *Error {
	beside := &p.launcher.starting
	defer beside.Add(-1)
	began, wait := time.Now(), firstLook*time.Duration(beside.Add(1))
	for ; ; wait = nextLook(began, wait) {
		s, err := listener(p.Spec.Listen)
		switch {
		case err != nil:
			return &Error{Err: err}
		case s != nil && s.uid != p.Spec.UID:
			return taken(p.Spec.Listen, s)
		case s != nil && handlesTerm(p.PID):
			return nil
		}
		select {
		case <-after(min(wait, maxLook)):
		case <-p.done:
			if e, ok := p.err.(*Error); ok {
				return e
			}
			return &Error{Text: "stopped while it started"}
		case <-ctx.Done():
			what := "does not listen"
			if s != nil {
				what = "listens but does not finish its start"
			}
			return &Error{Text: fmt.Sprintf("tinyproxy %s on %s%s", what, p.Spec.Listen, quoted(p.output.said.lines())),
				Err: context.Cause(ctx), Remedy: "is the program tinyproxy, and the machine not overloaded?"}
		}
	}
}

func nextLook(began time.Time, last time.Duration) time.Duration {
	if time.Since(began) < usual {
		return last
	}
	return last * 5 / 4
}

// after is time.After. A goroutine whose program does nothing else wakes by epoll_wait(2), which counts milliseconds; a
// thread can sleep for less.
func after(d time.Duration) <-chan time.Time {
	if d >= time.Millisecond {
		return time.After(d)
	}
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil)
	over := make(chan time.Time)
	close(over)
	return over
}

// handlesTerm reports whether the process has a handler for SIGTERM.
func handlesTerm(pid int) bool {
	caught, err := strconv.ParseUint(statusField(pid, "SigCgt:"), 16, 64)
	return err == nil && caught&(1<<(unix.SIGTERM-1)) != 0
}

// portFree reports who listens at addr, as an error, before a proxy is started there.
func portFree(addr netip.AddrPort) *Error {
	s, err := listener(addr)
	if err != nil {
		return &Error{Err: err}
	}
	if s != nil {
		return taken(addr, s)
	}
	return nil
}

func taken(addr netip.AddrPort, s *socket) *Error {
	return &Error{Text: fmt.Sprintf("another process, of uid %d, listens on %s", s.uid, addr),
		Remedy: fmt.Sprintf("end it; ss -ltnp 'sport = %d' shows it", addr.Port()), Taken: true}
}

// inUse tells whether addr cannot be bound since somebody has bound it, who need not listen.
func inUse(addr netip.AddrPort) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // as tinyproxy
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}) == unix.EADDRINUSE
}

// listenRemedy finds out why addr cannot be listened on; tinyproxy does not say.
func listenRemedy(addr netip.AddrPort) string {
	local, err := net.InterfaceAddrs()
	if err == nil && !slices.ContainsFunc(local, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && (p.Addr() == addr.Addr() || addr.Addr().IsLoopback() && p.Contains(addr.Addr()))
	}) {
		return fmt.Sprintf("no interface has the address %s: the AppVM has left, or its vif is not ready",
			addr.Addr())
	}
	if e := portFree(addr); e != nil {
		return e.Text
	}
	return ""
}

// Listeners is the uids of who listens on this machine, by IPv4 address and port.
type Listeners map[netip.AddrPort]uint32

// ReadListeners asks once for all, which costs as much as asking for a few.
func ReadListeners() (Listeners, error) {
	all, err := sockets(netip.AddrPortFrom(netip.IPv4Unspecified(), 0), 1<<tcpListen, unix.NLM_F_DUMP)
	if err != nil {
		return nil, fmt.Errorf("look for who listens: %w", err)
	}
	listeners := make(Listeners, len(all))
	for _, s := range all {
		listeners[s.local] = s.uid
	}
	return listeners, nil
}

// Listens reports, as an error, that a connection to the proxy's port would not reach the proxy.
func (p *Proxy) Listens(all Listeners) error {
	uid, ok := all[p.Spec.Listen]
	var e *Error
	switch {
	case !ok:
		e = &Error{Text: fmt.Sprintf("tinyproxy (pid %d) does not listen on %s any more", p.PID, p.Spec.Listen)}
	case uid != p.Spec.UID:
		e = taken(p.Spec.Listen, &socket{uid: uid})
	default:
		return nil
	}
	e.Doing, e.VM, e.Addr = "proxy", p.Spec.Name, p.Spec.Addr
	return e
}

// Clients returns the far ends of connections on the proxy's port that may still carry data: those open, being opened,
// and closed by the client only.
func (p *Proxy) Clients() (clients []netip.AddrPort, err error) {
	const states = 1<<tcpEstablished | 1<<tcpSynRecv | 1<<tcpCloseWait
	all, err := sockets(p.Spec.Listen, states, unix.NLM_F_DUMP)
	for _, s := range all {
		if s.local == p.Spec.Listen {
			clients = append(clients, s.remote)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list clients of the proxy for %s: %w", p.Spec.Name, err)
	}
	return clients, nil
}

// socket is a TCP socket as the kernel describes it.
type socket struct {
	local  netip.AddrPort
	remote netip.AddrPort
	state  uint8
	uid    uint32
}

// listener returns the socket that a SYN to addr would reach: of that address or of all; nil if none.
func listener(addr netip.AddrPort) (*socket, error) {
	all, err := sockets(addr, 1<<tcpListen, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for a listener on %s: %w", addr, err)
	}
	for _, s := range all {
		if s.state == tcpListen {
			return &s, nil
		}
	}
	return nil, nil
}

// sockets asks the kernel (sock_diag(7), include/uapi/linux/inet_diag.h). Without NLM_F_DUMP it looks up
// the one socket that a packet from 0.0.0.0:0 to addr would be given to, which costs the same however many
// there are; with it, it lists those in one of the states and with addr's port.
func sockets(addr netip.AddrPort, states uint32, flags int) ([]socket, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, flags)
	req.AddRawData(diagRequest(addr, states))
	messages, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, err
	}
	found := make([]socket, 0, len(messages))
	for _, m := range messages {
		if len(m) < diagMessage {
			return nil, fmt.Errorf("sock_diag message of %d bytes", len(m))
		}
		found = append(found, socket{
			state:  m[1],
			local:  netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[8:12])), binary.BigEndian.Uint16(m[4:6])),
			remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[24:28])), binary.BigEndian.Uint16(m[6:8])),
			uid:    binary.NativeEndian.Uint32(m[64:68]),
		})
	}
	return found, nil
}

// diagMessage is sizeof(struct inet_diag_msg): family, state, timer, retrans (4 bytes), id as in the
// request (48), expires, rqueue, wqueue, uid, inode (20).
const diagMessage = 72

// diagRequest is a struct inet_diag_req_v2: family, protocol, extensions, padding, states, then the id:
// local port, remote port, local address, remote address, interface, cookie.
func diagRequest(addr netip.AddrPort, states uint32) []byte {
	b := make([]byte, 56)
	b[0], b[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], states)
	binary.BigEndian.PutUint16(b[8:], addr.Port())
	copy(b[12:], addr.Addr().AsSlice())
	for i := 48; i < 56; i++ {
		b[i] = 0xff // INET_DIAG_NOCOOKIE
	}
	return b
}
