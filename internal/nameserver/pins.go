package nameserver

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vifproxy/firewall"
	"vifproxy/names/wire"
)

const (
	// pinsWaitingMax is how many reports about pins wait for the kernel. Then the resolver waits.
	pinsWaitingMax = 1024

	// pinnedMax is how many addresses are pinned for one uid. A resolver pins 512; those of earlier ones may still be pinned.
	pinnedMax = 2048

	// pinStep is what times are rounded up to, so that many pins make few transactions.
	pinStep = 30 * time.Second

	// pinTimeout is how long one write may take. It takes less than a millisecond.
	pinTimeout = 2 * time.Second

	// unpinRetry is the delay after which it is tried again to take pins away.
	unpinRetry = 100 * time.Millisecond
)

// pins has the kernel pin addresses, in the order in which it is told to, and remembers which resolver has had them pinned. What one that
// has ended had pinned, no other one takes away: the next one does not know of it.
type pins struct {
	pinner firewall.Pinner

	mu      sync.Mutex
	waiting []pinWork
	more    chan struct{} // has room for one: something waits
	taken   chan struct{} // has room for one: nothing waits

	pinned map[uint32]map[netip.Addr]pinned // by uid; belongs to work
}

// A pinned is an address that may be pinned.
type pinned struct {
	by    *session
	until time.Time
}

// A pinWork is one thing to do.
type pinWork struct {
	session *session  // which is told of a pin, or whose pins stay
	pin     *wire.Pin // to pin or, with Seconds 0, to unpin
	uid     uint32    // without a pin: whose pins go
	all     bool      // of the session too
}

func newPins(pinner firewall.Pinner) *pins {
	return &pins{pinner: pinner, more: make(chan struct{}, 1), taken: make(chan struct{}, 1), pinned: map[uint32]map[netip.Addr]pinned{}}
}

func (p *pins) add(w pinWork) {
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// pin pins, and then tells the session.
func (p *pins) pin(r *session, pin *wire.Pin) { p.add(pinWork{session: r, pin: pin}) }

func (p *pins) unpin(pin *wire.Pin) { p.add(pinWork{pin: pin}) }

// closeAll takes all pins of a uid away.
func (p *pins) closeAll(uid uint32) { p.add(pinWork{uid: uid, all: true}) }

// closeSome takes the pins of a uid away that another session than this one has made.
func (p *pins) closeSome(uid uint32, except *session) { p.add(pinWork{uid: uid, session: except}) }

// full reports whether much waits.
func (p *pins) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) >= pinsWaitingMax
}

// await returns when not much waits, or when over is closed. One goroutine may call it.
func (p *pins) await(over <-chan struct{}) {
	for {
		if !p.full() {
			return
		}
		select {
		case <-p.taken:
		case <-over:
			return
		}
	}
}

// work does what waits, until ctx ends.
func (p *pins) work(ctx context.Context) {
	for {
		select {
		case <-p.more:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		all := p.waiting
		p.waiting = nil
		p.mu.Unlock()
		select {
		case p.taken <- struct{}{}:
		default:
		}
		for len(all) > 0 {
			n := slices.IndexFunc(all, func(w pinWork) bool { return !w.pins() })
			if n < 0 {
				n = len(all)
			}
			p.pinAll(ctx, all[:n])
			if all = all[n:]; len(all) > 0 {
				p.takeAway(ctx, all[0])
				all = all[1:]
			}
		}
	}
}

// pins reports whether something is to be pinned.
func (w pinWork) pins() bool { return w.pin != nil && w.pin.Seconds > 0 }

// pinAll pins for all, in one transaction for each length of time, and tells who has asked for it.
func (p *pins) pinAll(ctx context.Context, all []pinWork) {
	byTime := map[time.Duration][]pinWork{}
	for _, w := range all {
		select {
		case <-w.session.over: // nobody waits for it
			continue
		default:
		}
		lasting := (time.Duration(w.pin.Seconds)*time.Second + pinStep - 1).Truncate(pinStep)
		byTime[lasting] = append(byTime[lasting], w)
	}
	for lasting, all := range byTime {
		now := time.Now()
		wanted := map[firewall.Pin]*session{}
		var done []pinWork
		for _, w := range all {
			if !p.room(w.pin.UID, len(w.pin.Addrs), now) {
				w.session.send(wire.Order{Pinned: &wire.Done{ID: w.pin.ID}})
				continue
			}
			for _, addr := range w.pin.Addrs {
				wanted[firewall.Pin{UID: w.pin.UID, Addr: addr}] = w.session
			}
			done = append(done, w)
		}
		for pin, by := range wanted { // it may be there even if there is an error
			of := p.pinned[pin.UID]
			if of == nil {
				of = map[netip.Addr]pinned{}
				p.pinned[pin.UID] = of
			}
			of[pin.Addr] = pinned{by, now.Add(lasting + pinTimeout)}
		}
		ok := p.write(ctx, func(ctx context.Context) error {
			return p.pinner.Pin(ctx, slices.Collect(maps.Keys(wanted)), lasting)
		}) == nil
		for _, w := range done {
			w.session.send(wire.Order{Pinned: &wire.Done{ID: w.pin.ID, OK: ok}})
		}
	}
}

// room reports whether so many addresses more may be pinned for a uid.
func (p *pins) room(uid uint32, more int, now time.Time) bool {
	of := p.pinned[uid]
	if len(of)+more > pinnedMax {
		maps.DeleteFunc(of, func(_ netip.Addr, x pinned) bool { return now.After(x.until) })
	}
	return len(of)+more <= pinnedMax
}

// takeAway takes pins away. It tries until it succeeds: nothing else is pinned meanwhile.
func (p *pins) takeAway(ctx context.Context, w pinWork) {
	var some []firewall.Pin
	switch {
	case w.all:
		delete(p.pinned, w.uid)
	case w.pin != nil:
		for _, addr := range w.pin.Addrs {
			some = append(some, firewall.Pin{UID: w.pin.UID, Addr: addr})
			delete(p.pinned[w.pin.UID], addr)
		}
	default:
		for addr, x := range p.pinned[w.uid] {
			if w.session == nil || x.by != w.session {
				some = append(some, firewall.Pin{UID: w.uid, Addr: addr})
				delete(p.pinned[w.uid], addr)
			}
		}
	}
	for ctx.Err() == nil {
		err := p.write(ctx, func(ctx context.Context) error {
			switch {
			case w.all:
				return p.pinner.UnpinAll(ctx, w.uid)
			case len(some) == 0:
				return nil
			}
			return p.pinner.Unpin(ctx, some)
		})
		if err == nil {
			return
		}
		select {
		case <-time.After(unpinRetry):
		case <-ctx.Done():
		}
	}
}

func (p *pins) write(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pinTimeout)
	defer cancel()
	return f(ctx)
}
