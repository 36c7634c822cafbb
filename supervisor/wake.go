package supervisor

import (
	"sync"
	"time"

	"vifproxy/netwatch"
)

// Reason says which input may have changed. It carries no data: whoever is woken reads the input again, whole, but for
// Hints.
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
	now wakeups
}

// woken is what the loop is woken with.
type wakeups struct {
	Reason
	first, last time.Time       // when somebody said Rules: the loop may have been busy since
	hints       []netwatch.Hint // where Links may differ, if that is not said
}

// hintsMax is how many a busy loop keeps. More say that Links may differ anywhere.
const hintsMax = 32

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

// hint is wake where it is known where Links may differ.
func (w *waker) hint(h netwatch.Hint) {
	w.mu.Lock()
	full := len(w.now.hints) == hintsMax
	if !full {
		w.now.hints = append(w.now.hints, h)
	}
	w.mu.Unlock()
	if full {
		w.wake(Links)
	} else {
		w.wake(0)
	}
}

// pending tells whether a reason waits to be taken.
func (w *waker) pending(r Reason) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.has(r)
}

func (w *waker) take() wakeups {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.now
	w.now = wakeups{}
	return taken
}

func (r Reason) has(x Reason) bool { return r&x != 0 }
