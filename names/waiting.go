package names

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// waiting are those who wait for an answer of the daemon.
type waiting[T any] struct {
	mu   sync.Mutex
	last int64
	done map[int64]chan T
}

// begin returns a new id, and where the answer comes.
func (w *waiting[T]) begin() (id int64, done <-chan T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = map[int64]chan T{}
	}
	w.last++
	c := make(chan T, 1)
	w.done[w.last] = c
	return w.last, c
}

// tell hands an answer to who waits for it, if somebody does.
func (w *waiting[T]) tell(id int64, answer T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.done[id]; c != nil {
		c <- answer
		delete(w.done, id)
	}
}

// end ends the wait.
func (w *waiting[T]) end(id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.done, id)
}

// A route knows whether IPv4 leads anywhere.
type route struct {
	mu sync.Mutex
	is bool
	at time.Time
}

// nowhere is an address for documentation (RFC 5737).
var nowhere = net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:53"))

// there reports whether IPv4 has a route. A socket for datagrams that is connected sends nothing.
func (r *route) there() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.at) > routeTime {
		conn, err := net.DialUDP("udp4", nil, nowhere)
		if err == nil {
			conn.Close()
		}
		r.is, r.at = err == nil, now
	}
	return r.is
}
