package resolvconf

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// asked is how many name servers of one resolv.conf are asked: as many as the C library asks (MAXNS in glibc's resolv.h).
	asked = 3

	// formerFor is how long a name server stays open that resolv.conf no longer has. The resolver is told of others after the firewall has
	// opened them, and until then it asks this one.
	formerFor = 5 * time.Second

	// formerMax is how many such name servers are open: those of two earlier versions of the file.
	formerMax = 2 * asked
)

// A Memory knows the name servers that may be asked: those that resolv.conf has, and for 5 s those that it had before. The zero Memory
// knows none.
type Memory struct {
	listed []netip.Addr
	former []former // in the order of their ends
}

// A former name server is one that resolv.conf no longer has.
type former struct {
	addr netip.Addr
	end  time.Time // from then on nobody asks it
}

// Listed takes in what resolv.conf has now, as Read returns it.
func (m *Memory) Listed(resolvers []netip.Addr, now time.Time) {
	for _, addr := range m.listed[:min(len(m.listed), asked)] {
		m.former = append(m.former, former{addr, now.Add(formerFor)})
	}
	m.listed = resolvers
	m.former = slices.DeleteFunc(m.former, func(f former) bool { return !now.Before(f.end) || slices.Contains(resolvers, f.addr) })
	m.former = m.former[max(0, len(m.former)-formerMax):]
}

// Open returns the name servers that may be asked.
func (m *Memory) Open(now time.Time) []netip.Addr {
	open := slices.Clone(m.listed)
	for _, f := range m.former {
		if now.Before(f.end) {
			open = append(open, f.addr)
		}
	}
	return open
}

// Next returns when the next name server is to be closed; the zero time if none is.
func (m *Memory) Next() time.Time {
	if len(m.former) == 0 {
		return time.Time{}
	}
	return m.former[0].end
}
