// Package closed ends connections that proxies have closed and whose AppVM does not take what it was sent.
//
// When a proxy closes a connection, the kernel keeps what it has not delivered yet. An AppVM whose window is closed makes the kernel keep it
// for 5 min, and as long as it likes if it takes a byte now and then. Nothing of the proxy bounds that: for tinyproxy, the client has
// gone. The memory counts in tcp_mem, which is one for the VM: beyond it, the kernel resets what others close.
//
// Concurrency: all functions may be called from any goroutine; they are about the network of the calling thread.
package closed

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/beat"
	"vifproxy/internal/sockdiag"
)

const (
	stillTime    = 30 * time.Second // for which a connection may stand still
	keptMax      = 128              // connections of one AppVM that its proxy has closed
	interval     = 10 * time.Second // between looks
	busyInterval = 2 * time.Second  // the same while an AppVM has more than half of keptMax
)

// KeepEnding ends such connections until ctx ends. It spares a connection of which the AppVM takes something, however slowly, unless the
// AppVM has more than keptMax of them. told gets an error when that begins to fail, and nil when it works again.
func KeepEnding(ctx context.Context, c firewall.Config, told func(error)) {
	w := watch{Config: c}
	var last error
	for next := interval; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(beat.Next(time.Now(), next))):
		}
		busy, err := w.look(time.Now())
		if (err == nil) != (last == nil) {
			told(err)
		}
		if errors.Is(err, errStays) {
			return
		}
		last, next = err, interval
		if busy {
			next = busyInterval
		}
	}
}

// errStays says that the kernel does not end a closed socket when it is told to. It drops what the socket was to send, and its timers, and
// then keeps it for ever (tcp_abort in net/ipv4/tcp.c before Linux 6.11). That is worse than 5 min.
var errStays = errors.New("this kernel does not end connections that proxies have closed and whose AppVM takes nothing: " +
	"many of them cut off answers to others (Linux 6.11 or later ends them)")

// A watch knows what it has seen in earlier looks.
type watch struct {
	firewall.Config
	known  map[uint64]connection // by cookie
	proven bool                  // the kernel ends what it is told to end
}

type connection struct {
	sockdiag.Socket
	since time.Time // when it was first seen as it is
	moved bool      // it has moved since it was first seen
}

// look ends what is to be ended now. It reports whether it should look again soon.
func (w *watch) look(now time.Time) (busy bool, err error) {
	found, err := sockdiag.Closed()
	if err != nil {
		return false, err
	}
	known := make(map[uint64]connection)
	of := make(map[netip.Addr][]connection)
	for _, s := range found {
		if port := s.Local.Port(); port != w.ProxyPort && (port < w.FirstPort || port > w.LastPort) {
			continue
		}
		c, had := w.known[s.Cookie]
		if moved := had && c.Unsent != s.Unsent; moved || !had {
			c.since, c.moved = now, moved
		}
		c.Socket = s
		known[s.Cookie] = c
		of[s.Remote.Addr()] = append(of[s.Remote.Addr()], c)
	}
	w.known = known
	var over []sockdiag.Socket
	for _, all := range of {
		busy = busy || len(all) > keptMax/2
		slices.SortFunc(all, func(a, b connection) int { // those that have never moved come first, then the ones that stand still for longest
			switch {
			case b.moved && !a.moved:
				return -1
			case a.moved && !b.moved:
				return 1
			}
			return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.Cookie, b.Cookie))
		})
		for i, c := range all {
			if i < len(all)-keptMax || now.Sub(c.since) >= stillTime {
				over = append(over, c.Socket)
			}
		}
	}
	return busy, w.end(over)
}

// end ends connections. The first time, it ends one, and looks whether that has gone.
func (w *watch) end(over []sockdiag.Socket) error {
	if len(over) == 0 {
		return nil
	}
	if !w.proven {
		if err := sockdiag.Destroy(over[:1]); err != nil {
			return err
		}
		left, err := sockdiag.Closed()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(left, func(s sockdiag.Socket) bool { return s.Cookie == over[0].Cookie }) {
			return errStays
		}
		w.proven = true
	}
	return sockdiag.Destroy(over)
}
