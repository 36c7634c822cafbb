package proxies

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// HeldTime is how long the same clients may hold all slots of a proxy while others wait, until another process serves these.
	// tinyproxy gives a slot back after its Timeout, 10 min by default, and never if its client sends a byte now and then.
	HeldTime = time.Minute
	// HeldInterval is the time between two looks at who holds the slots of proxies.
	HeldInterval = 20 * time.Second
)

// Slots notices proxies whose clients hold all their slots, MaxClients in number: nobody else is served. It believes the kernel, which
// knows whom a process has accepted, and nothing that a proxy says. It belongs to one goroutine.
type Slots map[int]held

// held is what the looks at one generation have in common.
type held struct {
	by    []netip.AddrPort
	since time.Time
}

// Note takes in a look at a generation: what its Held returns. It reports whether the same clients have held all slots for HeldTime,
// and then begins again.
func (p Slots) Note(generation int, by []netip.AddrPort, now time.Time) bool {
	was, known := p[generation]
	switch {
	case len(by) == 0:
		delete(p, generation)
	case !known || !slices.Equal(was.by, by):
		p[generation] = held{by, now}
	case now.Sub(was.since) >= HeldTime:
		delete(p, generation)
		return true
	}
	return false
}

// Keep forgets all generations but those for which serves reports true.
func (p Slots) Keep(serves func(generation int) bool) {
	for id := range p {
		if !serves(id) {
			delete(p, id)
		}
	}
}
