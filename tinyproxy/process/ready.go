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
	"vifproxy/tinyproxy/leftover"
)

// The delay between looks at the socket table while a proxy starts. A start normally takes 2 or 3 ms. If several start at
// once, each takes that many times longer and is looked at that many times less often, because looks take CPU from the starts.
const (
	readyDelayMin = 300 * time.Microsecond
	readySteady   = 15 * time.Millisecond // for so long the delay stays the same, and then it grows
	readyDelayMax = 20 * time.Millisecond
)

// awaitReady returns when the process listens where it should and has completed its start. It reads the kernel's socket table,
// because a connection would appear in the log as a client's, and would not show who listens.
//
// Every version listens before it has completed its start: 1.10 may still exit because of its configuration (child_pool_create
// in src/main.c), and SIGTERM would kill it without a word. All versions set up the handler for SIGTERM last.
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
			p.socket = s.Cookie
			return p.handedTo()
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
			return &Error{Text: fmt.Sprintf("tinyproxy %s on %s%s", what, p.Spec.Listen, tinyproxy.Quoted(p.output.Said.Lines())),
				Err: context.Cause(ctx), Remedy: "check that the program is tinyproxy, and that the machine is not overloaded"}
		}
	}
}

// handedTo returns an error if the switchboard has not got the socket of the proxy. An AppVM that is bound to it would be refused every
// connection.
func (p *Proxy) handedTo() *Error {
	if s := p.launcher.options.Switchboard; s == nil || s.Listens(p.socket) {
		return nil
	}
	return &Error{Text: fmt.Sprintf("the kernel's switchboard does not know the socket of tinyproxy (pid %d) on %s", p.PID, p.Spec.Listen),
		Remedy: "restart vifproxyd: its programs of BPF may have been detached"}
}

func nextLook(began time.Time, last time.Duration) time.Duration {
	if time.Since(began) < readySteady {
		return last
	}
	return last * 5 / 4
}

// shortTimer is time.After. A goroutine of an otherwise idle program wakes by epoll_wait(2), which counts milliseconds; a
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
	caught, err := strconv.ParseUint(leftover.StatusField(pid, "SigCgt:"), 16, 64)
	return err == nil && caught&(1<<(unix.SIGTERM-1)) != 0
}

// portFree returns an error that names the process that listens at addr, or nil.
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

// inUse reports whether addr cannot be bound because it is bound already. Its owner need not listen.
func inUse(addr netip.AddrPort) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // as tinyproxy
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}) == unix.EADDRINUSE
}

// listenRemedy returns why addr cannot be listened on, which tinyproxy does not say.
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

// Listens returns an error if a connection to the proxy's port would not reach the proxy.
func (p *Proxy) Listens(all sockdiag.Listeners) error {
	if err := p.HasPort(all); err != nil {
		return err
	}
	return p.named(p.handedTo())
}

// HasPort returns an error if the proxy does not listen at its port by the socket that it began with, or stands still. Listens asks the switchboard in
// addition, which is a call of the kernel for each proxy. The switchboard keeps a socket as long as that listens.
func (p *Proxy) HasPort(all sockdiag.Listeners) error {
	s, ok := all[p.Spec.Listen]
	switch {
	case !ok:
		return p.named(&Error{Text: fmt.Sprintf("tinyproxy (pid %d) does not listen on %s any more", p.PID, p.Spec.Listen)})
	case s.UID != p.Spec.UID:
		return p.named(portTaken(p.Spec.Listen, &s))
	case s.Cookie != p.socket:
		return p.named(&Error{Text: fmt.Sprintf("tinyproxy (pid %d) listens on %s by another socket than it began with", p.PID, p.Spec.Listen)})
	}
	return p.named(p.standsStill(s))
}

// named returns an error that says which proxy it is about, or nil.
func (p *Proxy) named(e *Error) error {
	if e == nil {
		return nil
	}
	e.Doing, e.VM, e.Addr = "proxy", p.Spec.Name, p.Spec.Addr
	return e
}

// Socket returns the number of the socket by which the proxy listens.
func (p *Proxy) Socket() uint64 { return p.socket }

// Clients returns the far ends of connections to the proxy that may still carry data: those to its own port, and, if connections to a
// port of all proxies are handed to its socket, those too.
func (p *Proxy) Clients() ([]netip.AddrPort, error) {
	return p.clients(func(sockdiag.Socket) bool { return true })
}

// Held returns those of its clients that the proxy serves, in order, while others wait for it to accept them; nil if none wait. The
// order is that of their addresses.
func (p *Proxy) Held(all sockdiag.Listeners) ([]netip.AddrPort, error) {
	if all[p.Spec.Listen].Waiting == 0 {
		return nil, nil
	}
	held, err := p.clients(func(s sockdiag.Socket) bool { return s.Accepted })
	slices.SortFunc(held, netip.AddrPort.Compare)
	return held, err
}

func (p *Proxy) clients(are func(sockdiag.Socket) bool) (clients []netip.AddrPort, err error) {
	found, err := sockdiag.Clients(p.Spec.Listen)
	if s := p.launcher.options.Switchboard; err == nil && s != nil {
		var handed []sockdiag.Socket
		handed, err = sockdiag.ClientsIn(p.cell.Group(), s.Port(), p.Spec.Addr)
		found = append(found, handed...)
	}
	if err != nil {
		return nil, fmt.Errorf("list clients of the proxy for %s: %w", p.Spec.Name, err)
	}
	for _, s := range found {
		if are(s) {
			clients = append(clients, s.Remote)
		}
	}
	return clients, nil
}
