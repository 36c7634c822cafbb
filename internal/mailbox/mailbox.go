// Package mailbox is how goroutines reach a loop: with a reason to look again, with a hint where to look, or with a letter, a function
// that the loop calls.
//
// A reason carries no data: the loop reads the input again, whole, except for hints. A box has one slot, so any number of wake-ups
// while the loop is busy make one more round, and none is lost.
//
// Concurrency: Wake, Hint, Post and Done may be called from any goroutine, and never wait. Ask and AskLater wait for the loop. The others are the loop's.
package mailbox

import (
	"sync"
	"time"

	"vifproxy/netwatch"
)

// A Reason says which input may have changed.
type Reason uint32

const (
	Links     Reason = 1 << iota // netlink spoke
	Rules                        // the rule directory or the template may differ
	Firewall                     // another program has changed the ruleset
	Resolvers                    // the name servers may differ
	Mail                         // a letter has come
	Force                        // SIGHUP, `update`: read everything, forget all waiting periods
)

// Has reports whether r has one of the reasons of x.
func (r Reason) Has(x Reason) bool { return r&x != 0 }

// Wakeups is what has come since the loop last took it.
type Wakeups struct {
	Reason
	First, Last time.Time       // of Rules: the loop may have been busy since
	Hints       []netwatch.Hint // where Links may differ, if that is not among the reasons
}

// HintsMax is how many hints wait for a busy loop. More mean that Links may differ anywhere.
const HintsMax = 32

// A Box is the mailbox of a loop of type L.
type Box[L any] struct {
	slot chan struct{}
	done chan struct{}

	mu      sync.Mutex
	now     Wakeups
	letters []func(L)
}

// New returns an empty box.
func New[L any]() *Box[L] {
	return &Box[L]{slot: make(chan struct{}, 1), done: make(chan struct{})}
}

// Wake makes the loop look again.
func (b *Box[L]) Wake(r Reason) {
	b.mu.Lock()
	b.now.Reason |= r
	if r.Has(Rules) {
		b.now.Last = time.Now()
		if b.now.First.IsZero() {
			b.now.First = b.now.Last
		}
	}
	b.mu.Unlock()
	select {
	case b.slot <- struct{}{}:
	default:
	}
}

// Hint is Wake(Links) if it is known where they may differ.
func (b *Box[L]) Hint(h netwatch.Hint) {
	b.mu.Lock()
	full := len(b.now.Hints) == HintsMax
	if !full {
		b.now.Hints = append(b.now.Hints, h)
	}
	b.mu.Unlock()
	if full {
		b.Wake(Links)
	} else {
		b.Wake(0)
	}
}

// Post makes the loop call letter with itself.
func (b *Box[L]) Post(letter func(L)) {
	b.mu.Lock()
	b.letters = append(b.letters, letter)
	b.mu.Unlock()
	b.Wake(Mail)
}

// Done is closed when nobody reads letters any more.
func (b *Box[L]) Done() <-chan struct{} { return b.done }

// Slot has something when something has come.
func (b *Box[L]) Slot() <-chan struct{} { return b.slot }

// Pending reports whether a reason waits to be taken.
func (b *Box[L]) Pending(r Reason) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now.Has(r)
}

// Take returns the wake-ups that have come since the last call.
func (b *Box[L]) Take() Wakeups {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.now
	b.now = Wakeups{}
	return taken
}

// Letters returns the letters that have come since the last call. It empties the slot, so a loop that a timer has woken does not look
// twice. Take has to follow.
func (b *Box[L]) Letters() []func(L) {
	select {
	case <-b.slot:
	default:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	letters := b.letters
	b.letters = nil
	return letters
}

// Close says that nobody reads letters any more.
func (b *Box[L]) Close() { close(b.done) }
