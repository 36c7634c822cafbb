package supervisor

import "sync/atomic"

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
	slot    chan struct{}
	reasons atomic.Uint32
}

func newWaker() *waker { return &waker{slot: make(chan struct{}, 1)} }

func (w *waker) wake(r Reason) {
	w.reasons.Or(uint32(r))
	select {
	case w.slot <- struct{}{}:
	default:
	}
}

func (w *waker) take() Reason { return Reason(w.reasons.Swap(0)) }

func (r Reason) has(x Reason) bool { return r&x != 0 }
