package names

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/names/wire"
)

const (
	// tallyInterval is the time between events about what a proxy does all the time. The first one goes out at once.
	tallyInterval = time.Second
	// eventRate is how many names of one AppVM that failed people are told of, a second, in the long run.
	eventRate  = 16
	eventBurst = 128
)

// tallies are what is told about one party, so that it cannot make much of it.
type tallies struct {
	tell func(wire.Event) // never waits

	mu      sync.Mutex
	byKind  map[wire.Failure]*tally
	limiter *rate.Limiter
}

// A tally counts what was not told yet.
type tally struct {
	first wire.Event
	count int
}

// add tells of an event at once if nothing like it was told within the last second, and counts it otherwise.
func (t *tallies) add(e wire.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if kept := t.byKind[e.Failure]; kept != nil {
		if kept.count == 0 {
			kept.first = e
		}
		kept.count++
		return
	}
	if t.byKind == nil {
		t.byKind = map[wire.Failure]*tally{}
	}
	t.byKind[e.Failure] = &tally{}
	e.Count = 1
	t.tell(e)
	time.AfterFunc(tallyInterval, func() { t.flush(e.Failure) })
}

// flush tells what was counted in the last second.
func (t *tallies) flush(kind wire.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.byKind[kind]
	if kept.count == 0 {
		delete(t.byKind, kind)
		return
	}
	kept.first.Count = kept.count
	t.tell(kept.first)
	t.byKind[kind] = &tally{}
	time.AfterFunc(tallyInterval, func() { t.flush(kind) })
}

// tellSome tells of an event, unless there were many.
func (t *tallies) tellSome(e wire.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limiter == nil {
		t.limiter = rate.NewLimiter(eventRate, eventBurst)
	}
	if t.limiter.Allow() {
		t.tell(e)
	}
}
