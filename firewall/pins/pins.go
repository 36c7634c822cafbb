// Package pins remembers which addresses are pinned for proxies, and until when. It plans what a packet filter has to be told whose
// elements end by themselves: to take out one that has ended is an error there, and so is to put in one that has not. The filter's clock
// is not ours, so around its end a pin may be there or not.
//
// Concurrency: one goroutine at a time may use a Board.
package pins

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"vifproxy/firewall"
)

const (
	perProxy   = 512     // pinned for one proxy: a page of many hosts has some 50
	totalMax   = 1 << 16 // for all
	lastingMin = time.Second
	doubt      = 100 * time.Millisecond // around the end of a pin
	sweepEvery = time.Minute            // after which pins of others that have ended are forgotten
)

// A lease is how long one address is pinned for one proxy: it ends between these times, and a tick of the filter's clock later.
type lease struct {
	firewall.Pin
	first, last time.Duration
	seen        bool // in what Restore is about
}

func (l lease) lives(now time.Duration) bool { return now < l.first-doubt }
func (l lease) gone(now time.Duration) bool  { return now > l.last+doubt }

// A Board remembers what is pinned. All times are since it was made, see Now.
type Board struct {
	began  time.Time
	leases map[uint32][]lease // by the uid of the proxy
	count  int
	swept  time.Duration
}

// New returns a Board without pins.
func New() *Board { return &Board{began: time.Now(), leases: make(map[uint32][]lease)} }

// Now returns the time since the Board was made.
func (b *Board) Now() time.Duration { return time.Since(b.began) }

// Len returns how many pins are remembered. Some may have ended.
func (b *Board) Len() int { return b.count }

// A Plan is what the filter has to be told, in one transaction: what goes out, and then what goes in.
type Plan struct {
	Out     []firewall.Pin
	In      []firewall.Pin
	Lasting []time.Duration // of each that goes in
	Wait    time.Duration   // if it is not 0, something is about to end: do nothing now, and plan again after this time
}

// Empty reports whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Out)+len(p.In) == 0 }

func (p *Plan) put(pin firewall.Pin, lasting time.Duration) {
	p.In, p.Lasting = append(p.In, pin), append(p.Lasting, lasting)
}

// take plans to take a pin out, if it may be there.
func (p *Plan) take(l lease, now time.Duration) {
	switch {
	case l.lives(now):
		p.Out = append(p.Out, l.Pin)
	case !l.gone(now):
		p.Wait = max(p.Wait, l.last+doubt+time.Millisecond-now)
	}
}

// Check returns an error if these pins cannot be.
func Check(c firewall.Config, pins []firewall.Pin, lasting time.Duration) error {
	if lasting < lastingMin || lasting > firewall.PinMax {
		return fmt.Errorf("pins for %v: between %v and %v are possible", lasting, lastingMin, firewall.PinMax)
	}
	for _, p := range pins {
		switch {
		case p.UID < c.FirstUID || p.UID > c.LastUID || p.UID == c.NamesUID:
			return fmt.Errorf("pin for uid %d, which is no proxy's", p.UID)
		case !firewall.Public(p.Addr):
			return fmt.Errorf("pin of %v, which is no public address", p.Addr)
		}
	}
	if len(pins) > totalMax {
		return fmt.Errorf("more than %d pins", totalMax)
	}
	return nil
}

// Pin plans to pin addresses that Check has seen.
func (b *Board) Pin(pins []firewall.Pin, lasting, now time.Duration) (p Plan) {
	b.sweep(pins, now)
	kept := make(map[firewall.Pin]bool, len(pins))
	for _, pin := range pins {
		if kept[pin] {
			continue
		}
		kept[pin] = true
		if l := b.find(pin); l == nil {
			p.put(pin, lasting)
		} else if l.first < now+lasting {
			p.take(*l, now)
			p.put(pin, lasting)
		}
	}
	b.makeRoom(&p, kept, now)
	return p
}

// makeRoom plans to take out what is too much then: of a proxy that has too many pins, those that end first; if all have too many, of
// the proxies that have most. What this plan is about stays.
func (b *Board) makeRoom(p *Plan, kept map[firewall.Pin]bool, now time.Duration) {
	more, all := make(map[uint32]int), b.count // what there will be more, by the uid
	for _, pin := range p.In {
		if b.find(pin) == nil {
			more[pin.UID]++
			all++
		}
	}
	evict := func(uid uint32, number int) (evicted int) {
		others := slices.DeleteFunc(slices.Clone(b.leases[uid]), func(l lease) bool { return kept[l.Pin] })
		slices.SortFunc(others, func(a, b lease) int { return cmp.Compare(a.first, b.first) })
		for _, l := range others[:min(max(number, 0), len(others))] {
			kept[l.Pin] = true // once
			if l.lives(now) {  // else it goes by itself
				p.Out = append(p.Out, l.Pin)
			}
			evicted++
		}
		more[uid] -= evicted
		all -= evicted
		return evicted
	}
	for uid := range more {
		evict(uid, len(b.leases[uid])+more[uid]-perProxy)
	}
	for all > totalMax {
		most, uid := 0, uint32(0)
		for u, leases := range b.leases {
			if m := len(leases) + more[u]; m > most {
				most, uid = m, u
			}
		}
		if evict(uid, min(all-totalMax, max(most/2, 1))) == 0 {
			return
		}
	}
}

// Unpin plans to take pins out.
func (b *Board) Unpin(pins []firewall.Pin, now time.Duration) (p Plan) {
	seen := make(map[firewall.Pin]bool, len(pins))
	for _, pin := range pins {
		if l := b.find(pin); l != nil && !seen[pin] {
			seen[pin] = true
			p.take(*l, now)
		}
	}
	return p
}

// UnpinAll plans to take all pins of a uid out.
func (b *Board) UnpinAll(uid uint32, now time.Duration) (p Plan) {
	for _, l := range b.leases[uid] {
		p.take(l, now)
	}
	return p
}

// Done remembers that a plan was carried out, between two times.
func (b *Board) Done(p Plan, before, after time.Duration) {
	for _, pin := range p.Out {
		b.forget(pin)
	}
	for i, pin := range p.In {
		b.forget(pin) // it has ended
		b.leases[pin.UID] = append(b.leases[pin.UID], lease{Pin: pin, first: before + p.Lasting[i], last: after + p.Lasting[i]})
		b.count++
	}
}

// Failed remembers that nobody knows whether a plan was carried out. What was to go is not wanted any more; what was to come is not
// there, as far as anybody may rely on it.
func (b *Board) Failed(p Plan) {
	for _, pin := range p.Out {
		if !slices.Contains(p.In, pin) {
			b.forget(pin)
		}
	}
}

// Held is a pin that the filter holds, and for how long from then on.
type Held struct {
	firewall.Pin
	Left time.Duration
}

// Restore plans what makes the filter hold what the Board says, from what it holds, which was read between two times. Done must not be
// told of this plan.
func (b *Board) Restore(held []Held, before, after time.Duration) (p Plan) {
	for _, h := range held {
		if l := b.find(h.Pin); l != nil && h.Left <= l.last-before+doubt && h.Left >= l.first-after-doubt {
			l.seen = true
		} else if h.Left > doubt { // else it ends by itself
			p.Out = append(p.Out, h.Pin)
		}
	}
	b.keep(func(l lease) bool {
		if !l.seen && l.lives(after) {
			p.put(l.Pin, l.first-after)
		}
		return l.seen || l.lives(after)
	})
	for _, all := range b.leases {
		for i := range all {
			all[i].seen = false
		}
	}
	return p
}

// All plans what puts everything into a filter that is empty. When that is done, call Begun.
func (b *Board) All(now time.Duration) (p Plan) {
	for _, all := range b.leases {
		for _, l := range all {
			if l.lives(now) {
				p.put(l.Pin, l.first-now)
			}
		}
	}
	return p
}

// Begun forgets what did not go into the filter with All at that time.
func (b *Board) Begun(now time.Duration) { b.keep(func(l lease) bool { return l.lives(now) }) }

func (b *Board) find(pin firewall.Pin) *lease {
	all := b.leases[pin.UID]
	if i := slices.IndexFunc(all, func(l lease) bool { return l.Pin == pin }); i >= 0 {
		return &all[i]
	}
	return nil
}

func (b *Board) forget(pin firewall.Pin) {
	b.keepOf(pin.UID, func(l lease) bool { return l.Pin != pin })
}

// sweep forgets what has ended: of the uids of these pins, and now and then of all.
func (b *Board) sweep(pins []firewall.Pin, now time.Duration) {
	lasts := func(l lease) bool { return !l.gone(now) }
	if now-b.swept > sweepEvery || b.count >= totalMax {
		b.swept = now
		b.keep(lasts)
		return
	}
	uids := make(map[uint32]bool)
	for _, pin := range pins {
		if !uids[pin.UID] {
			uids[pin.UID] = true
			b.keepOf(pin.UID, lasts)
		}
	}
}

// keep forgets all others.
func (b *Board) keep(keep func(lease) bool) {
	for uid := range b.leases {
		b.keepOf(uid, keep)
	}
}

func (b *Board) keepOf(uid uint32, keep func(lease) bool) {
	before := b.leases[uid]
	after := slices.DeleteFunc(before, func(l lease) bool { return !keep(l) })
	if b.count -= len(before) - len(after); len(after) == 0 {
		delete(b.leases, uid)
	} else if len(after) < len(before) {
		b.leases[uid] = after
	}
}
