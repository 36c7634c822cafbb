// Package upstreams remembers the addresses of the names in Upstream lines of the template. tinyproxy asks for them at each
// connection, and the fence has to know them before.
//
// A name server that has several addresses may answer with another one each time. So the daemon asks often at first and then now and
// then, and what it has heard in the last minutes stays open. If nobody answers, all of it stays.
//
// Concurrency: a Memory belongs to one goroutine. Another one calls what Ask returns.
package upstreams

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// LookUpTimeout is how long the question for a name's addresses may take.
	LookUpTimeout = 10 * time.Second

	// addressMemory is how long an address stays open after the last answer that had it.
	addressMemory = 10 * time.Minute

	// AddressesMax is how many addresses of one name are open.
	AddressesMax = 64

	// newInterval is the time between questions for a name that is new, and newFor how long it is new.
	newInterval = time.Second
	newFor      = 30 * time.Second
)

// A Memory is what is known of the names. The zero Memory is empty.
type Memory struct{ hosts map[string]*host }

type host struct {
	seen  map[netip.Addr]time.Time // addresses, and when an answer had them last
	since time.Time                // when the name was new
	again time.Time                // to be asked for; far in the future while a question is under way
}

// Addresses returns the known addresses of a name, sorted. A name that is not known is Due at once.
func (m *Memory) Addresses(name string, now time.Time) []netip.Addr {
	if m.hosts == nil {
		m.hosts = map[string]*host{}
	}
	h := m.hosts[name]
	if h == nil {
		h = &host{seen: map[netip.Addr]time.Time{}, since: now}
		m.hosts[name] = h
	}
	return h.addrs()
}

// Forget drops the names that are not wanted, and returns them.
func (m *Memory) Forget(wanted map[string]bool) (gone []string) {
	for name := range m.hosts {
		if !wanted[name] {
			delete(m.hosts, name)
			gone = append(gone, name)
		}
	}
	return gone
}

// Due returns the names that it is time to ask for. It takes them for asked.
func (m *Memory) Due(now time.Time) (names []string) {
	for name, h := range m.hosts {
		if !now.Before(h.again) {
			h.again = now.Add(time.Hour)
			names = append(names, name)
		}
	}
	return names
}

// Next returns when the next name is due, or limit if that is earlier.
func (m *Memory) Next(limit time.Time) time.Time {
	for _, h := range m.hosts {
		if h.again.Before(limit) {
			limit = h.again
		}
	}
	return limit
}

// Knows reports whether a name is wanted.
func (m *Memory) Knows(name string) bool { return m.hosts[name] != nil }

// Failed notes that a question for a name that is wanted has had no answer. It is due again at the given time.
func (m *Memory) Failed(name string, again time.Time) { m.hosts[name].again = again }

// Heard takes in the answer for a name that is wanted, and reports whether other addresses are known now. The name is due again after
// interval at most.
func (m *Memory) Heard(name string, addrs []netip.Addr, now time.Time, interval time.Duration) (changed bool) {
	h := m.hosts[name]
	h.again = now.Add(interval)
	if now.Sub(h.since) < newFor {
		h.again = now.Add(min(newInterval, interval))
	}
	before := h.addrs()
	for _, addr := range addrs {
		h.seen[addr] = now
	}
	maps.DeleteFunc(h.seen, func(_ netip.Addr, last time.Time) bool { return now.Sub(last) > addressMemory })
	byAge := slices.SortedFunc(maps.Keys(h.seen), func(a, b netip.Addr) int {
		return cmp.Or(h.seen[b].Compare(h.seen[a]), a.Compare(b))
	})
	for _, addr := range byAge[min(len(byAge), AddressesMax):] {
		delete(h.seen, addr)
	}
	return !slices.Equal(before, h.addrs())
}

func (h *host) addrs() []netip.Addr { return slices.SortedFunc(maps.Keys(h.seen), netip.Addr.Compare) }

// An Answer is that to the question for a name's addresses.
type Answer struct {
	Addrs []netip.Addr
	Err   error
}

// Ask returns a function that asks for the addresses of a name, until life ends.
func Ask(life context.Context, lookUp func(context.Context, string) ([]netip.Addr, error), name string) func() Answer {
	return func() (a Answer) {
		ctx, cancel := context.WithTimeout(life, LookUpTimeout)
		defer cancel()
		a.Addrs, a.Err = lookUp(ctx, name)
		for i := range a.Addrs {
			a.Addrs[i] = a.Addrs[i].Unmap().WithZone("")
		}
		return a
	}
}
