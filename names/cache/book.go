// Package cache keeps the answers of name servers for one AppVM.
//
// Concurrency: everything may be called from any goroutine.
package cache

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"vifproxy/names/ask"
)

const (
	silentWait = 100 * time.Millisecond  // for the servers, if there is a stale answer and they are known to be silent
	staleWait  = 1800 * time.Millisecond // for the servers, if there is a stale answer (RFC 8767, 5: a client response timer of 1.8 s)
	flightsMax = 256                     // questions of one AppVM that wait for name servers
)

// An Asker asks name servers. It is an *ask.Share.
type Asker interface {
	Ask(ctx context.Context, name string, t dnsmessage.Type) (ask.Answer, error)
	Silent() bool // all servers are known to be silent
	Version() int // changes when other servers are asked, or other names: what they said before is not true any more
}

// A Result is the addresses of a name. Without any, it is negative.
type Result struct {
	Addrs4, Addrs6 []netip.Addr  // of one family only; shared, so nobody may change them
	NoSuchName     bool          // there are no addresses, and no other records either
	Stale          bool          // the servers are silent, and this is what they said before
	TTL            time.Duration // how much longer this is true
}

// A Book is what one AppVM has been answered. It is never shared: else an AppVM would learn which names another one asks for.
type Book struct {
	ctx   context.Context
	asker Asker
	ipv4  func() bool
	now   func() time.Time

	mu      sync.Mutex
	store   store
	flights map[key]*flight
}

// A key is what a question is about.
type key struct {
	name    string
	family  family
	version int // of the asker: who is asked, and for what
}

// A flight is a question under way, for all who look at the same time.
type flight struct {
	done chan struct{} // closed when the view is there
	view view
}

// New returns an empty Book. ipv4 reports whether IPv4 has a route; it is called at each Look. Questions under way end with ctx.
func New(ctx context.Context, asker Asker, ipv4 func() bool) *Book {
	return &Book{ctx: ctx, asker: asker, ipv4: ipv4, now: bootTime, flights: map[key]*flight{}}
}

// bootTime tells the time of a clock that nobody can set, and that goes on while the machine is suspended: answers grow old then too.
func bootTime() time.Time {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(fmt.Sprintf("CLOCK_BOOTTIME: %v", err)) // Linux has it since 2.6.39
	}
	return time.Unix(now.Unix())
}

// Look returns the addresses of a name, those of IPv4 if it has some and IPv4 has a route, else those of IPv6. It asks for what it does
// not know, once for all who look at the same time. The error is an *ask.Error, or that of the context.
func (b *Book) Look(ctx context.Context, name string) (Result, error) {
	name = ask.Lower(name)
	prefer := six
	if b.ipv4() {
		prefer = four
	}
	now := b.now()

	b.mu.Lock()
	r := b.store.get(name)
	views, flights := b.views(r, name, prefer, now)
	stale, isStale := r.outdated(prefer, now)
	b.mu.Unlock()
	result, err, done := judge(views[prefer], views[1-prefer], prefer)
	var impatient <-chan time.Time
	if isStale && !done {
		if views[prefer].err != nil {
			return stale, nil
		}
		wait := staleWait
		if b.asker.Silent() { // but perhaps to another AppVM's names only
			wait = silentWait
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		impatient = timer.C
	}
	for !done {
		land := func(f family) {
			views[f], flights[f] = flights[f].view, nil
			result, err, done = judge(views[prefer], views[1-prefer], prefer)
		}
		select {
		case <-flights[four].landed():
			land(four)
		case <-flights[six].landed():
			land(six)
		case <-impatient:
			return stale, nil
		case <-ctx.Done():
			return Result{}, ctx.Err()
		}
		if isStale && views[prefer].err != nil {
			return stale, nil
		}
	}
	if err != nil && isStale {
		return stale, nil
	}
	return result, err
}

// views returns what is known, and questions under way about the rest. The other family is asked for as soon as it may matter.
func (b *Book) views(r *record, name string, prefer family, now time.Time) (views [2]view, flights [2]*flight) {
	version := b.asker.Version()
	for _, f := range [...]family{prefer, 1 - prefer} {
		if r != nil {
			e := &r.families[f]
			if views[f] = e.view(version, now); len(views[f].answer.Addrs) > 0 && e.ending(views[f].answer.TTL, now) {
				b.start(key{name, f, version})
			}
		}
		if !views[f].known {
			if flights[f] = b.start(key{name, f, version}); flights[f] == nil {
				views[f] = view{known: true, err: &ask.Error{Reason: ask.Busy}}
			}
		}
		if _, _, done := judge(views[prefer], views[1-prefer], prefer); done {
			break
		}
	}
	return views, flights
}

// landed returns what is closed when the flight has its view; nil, which blocks forever, for no flight.
func (f *flight) landed() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.done
}

// start asks, unless the same question is under way. It returns nil if there are too many. The caller holds mu.
func (b *Book) start(k key) *flight {
	if f := b.flights[k]; f != nil {
		return f
	}
	if len(b.flights) >= flightsMax {
		return nil
	}
	f := &flight{done: make(chan struct{})}
	b.flights[k] = f
	go b.fly(k, f)
	return f
}

// fly asks, and keeps the answer.
func (b *Book) fly(k key, f *flight) {
	answer, err := b.asker.Ask(b.ctx, k.name, [...]dnsmessage.Type{four: dnsmessage.TypeA, six: dnsmessage.TypeAAAA}[k.family])
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.flights, k)
	var e *ask.Error
	switch {
	case err == nil:
		b.store.put(k.name, k.family, answer, k.version, now)
		answer.TTL = trueFor(answer)
	case errors.As(err, &e) && (e.Reason == ask.Silent || e.Reason == ask.ServerError):
		b.store.fail(k.name, k.family, err, now)
	}
	f.view = view{known: true, answer: answer, err: err}
	close(f.done)
}
