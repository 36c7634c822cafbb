package explain

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// LookTimeout is how long it may take to find out what became of a connection.
	LookTimeout = 2 * time.Second
	// LooksMax is how many connections are looked into at once, of all AppVMs, and LooksEach of one.
	LooksMax  = 16
	LooksEach = 4
)

// Looks counts connections that are looked into. The zero Looks has none. Its methods may be called from any goroutine.
type Looks struct {
	mu  sync.Mutex
	all int
	by  map[netip.Addr]int
}

// Begin reports whether one more connection of an AppVM may be looked into. If so, it counts until End.
func (l *Looks) Begin(vm netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= LooksMax || l.by[vm] >= LooksEach {
		return false
	}
	if l.by == nil {
		l.by = map[netip.Addr]int{}
	}
	l.all++
	l.by[vm]++
	return true
}

// End says that one of them is over.
func (l *Looks) End(vm netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.by[vm]--; l.by[vm] == 0 {
		delete(l.by, vm)
	}
}

// None reports whether nothing is looked into.
func (l *Looks) None() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all == 0 && len(l.by) == 0
}
