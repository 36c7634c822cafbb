package supervisor

import (
	"sync"
	"time"
)

// Reason says which input may have changed. It carries no data: whoever is woken reads the whole input again.
type Reason uint32

const (
	Links     Reason = 1 << iota // netlink spoke
	Rules                        // the rule directory or the template may differ
	Firewall                     // somebody else changed the ruleset
	Resolvers                    // others may be asked for names now
	Mail                         // a proxy came up or ended, or a verb wants something
	Force                        // SIGHUP, `update`: read everything, forget all waiting periods
)

// waker has one slot: any number of wake-ups while the loop is busy make one more round, and none is lost.
type waker struct {
	slot chan struct{}

	mu  sync.Mutex
	now woken
}

// woken is what the loop is woken with.
type woken struct {
	Reason
	first, last time.Time // when somebody said Rules: the loop may have been busy since
}

func newWaker() *waker { return &waker{slot: make(chan struct{}, 1)} }

func (w *waker) wake(r Reason) {
	w.mu.Lock()
	w.now.Reason |= r
	if r.has(Rules) {
		w.now.last = time.Now()
		if w.now.first.IsZero() {
			w.now.first = w.now.last
		}
	}
	w.mu.Unlock()
	select {
	case w.slot <- struct{}{}:
	default:
	}
}

func (w *waker) take() woken {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.now
	w.now = woken{}
	return taken
}

func (r Reason) has(x Reason) bool { return r&x != 0 }
