package process

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/sockdiag"
	"vifproxy/tinyproxy"
)

// Intervals between looks at the socket table while a proxy starts; it takes 2 or 3 ms when all is well. Where many start
// at once, each takes as many times longer, and is looked at as many times less often: looks cost what starts need.
const (
	readyDelayMin = 300 * time.Microsecond
	readySteady   = 15 * time.Millisecond // so long looks are readyDelayMin apart, and then grow apart
	readyDelayMax = 20 * time.Millisecond
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
	began, wait := time.Now(), readyDelayMin*time.Duration(beside.Add(1))
	for ; ; wait = nextLook(began, wait) {
		s, err := sockdiag.Listener(p.Spec.Listen)
		switch {
		case err != nil:
			return &Error{Err: err}
		case s != nil && s.UID != p.Spec.UID:
			return portTaken(p.Spec.Listen, s)
		case s != nil && handlesTerm(p.PID):
			return nil
		}
		select {
		case <-shortTimer(min(wait, readyDelayMax)):
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
			return &Error{Text: fmt.Sprintf("tinyproxy %s on %s%s", what, p.Spec.Listen, tinyproxy.Quoted(p.output.said.lines())),
				Err: context.Cause(ctx), Remedy: "is the program tinyproxy, and the machine not overloaded?"}
		}
	}
}

func nextLook(began time.Time, last time.Duration) time.Duration {
	if time.Since(began) < readySteady {
		return last
	}
	return last * 5 / 4
}

// after is time.After. A goroutine whose program does nothing else wakes by epoll_wait(2), which counts milliseconds; a
// thread can sleep for less.
func shortTimer(d time.Duration) <-chan time.Time {
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
	s, err := sockdiag.Listener(addr)
	if err != nil {
		return &Error{Err: err}
	}
	if s != nil {
		return portTaken(addr, s)
	}
	return nil
}

func portTaken(addr netip.AddrPort, s *sockdiag.Socket) *Error {
	return &Error{Text: fmt.Sprintf("another process, of uid %d, listens on %s", s.UID, addr),
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

// Listens reports, as an error, that a connection to the proxy's port would not reach the proxy.
func (p *Proxy) Listens(all sockdiag.Listeners) error {
	uid, ok := all[p.Spec.Listen]
	var e *Error
	switch {
	case !ok:
		e = &Error{Text: fmt.Sprintf("tinyproxy (pid %d) does not listen on %s any more", p.PID, p.Spec.Listen)}
	case uid != p.Spec.UID:
		e = portTaken(p.Spec.Listen, &sockdiag.Socket{UID: uid})
	default:
		return nil
	}
	e.Doing, e.VM, e.Addr = "proxy", p.Spec.Name, p.Spec.Addr
	return e
}

// Clients returns the far ends of connections on the proxy's port that may still carry data: those open, being opened,
// and closed by the client only.
func (p *Proxy) Clients() (clients []netip.AddrPort, err error) {
	if clients, err = sockdiag.Clients(p.Spec.Listen); err != nil {
		return nil, fmt.Errorf("list clients of the proxy for %s: %w", p.Spec.Name, err)
	}
	return clients, nil
}
