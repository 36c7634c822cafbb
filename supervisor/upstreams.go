package supervisor

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"
)

const (
	// lookupBound is how long the question for an upstream's addresses may take.
	lookupBound = 10 * time.Second

	// addressMemory is how long an address of an upstream stays open after the last answer that had it.
	addressMemory = 10 * time.Minute

	// addressesMax is how many addresses of one upstream are open.
	addressesMax = 64

	// newUpstreamInterval is the time between questions for an upstream that is new, and newUpstreamFor how long it is new.
	newUpstreamInterval = time.Second
	newUpstreamFor      = 30 * time.Second
)

// host is a name in the template. tinyproxy asks for its addresses at each connection, and the fence has to know them
// before. A name server that has several may answer with one, another each time. So the daemon asks often at first, then
// every now and then, and what it has heard in the last minutes stays open. If nobody answers, all of it stays.
type upstreamHost struct {
	seen  map[netip.Addr]time.Time // addresses, and when an answer had them last
	since time.Time                // when the name was new
	again time.Time                // to be asked for; while a question is under way, far in the future
}

// heard takes in an answer, and reports whether other addresses are known now.
func (h *upstreamHost) heard(addrs []netip.Addr, now time.Time) (changed bool) {
	before := h.addrs()
	for _, addr := range addrs {
		h.seen[addr] = now
	}
	maps.DeleteFunc(h.seen, func(_ netip.Addr, last time.Time) bool { return now.Sub(last) > addressMemory })
	byAge := slices.SortedFunc(maps.Keys(h.seen), func(a, b netip.Addr) int {
		return cmp.Or(h.seen[b].Compare(h.seen[a]), a.Compare(b))
	})
	for _, addr := range byAge[min(len(byAge), addressesMax):] {
		delete(h.seen, addr)
	}
	return !slices.Equal(before, h.addrs())
}

// addrs returns the known addresses in order.
func (h *upstreamHost) addrs() []netip.Addr {
	return slices.SortedFunc(maps.Keys(h.seen), netip.Addr.Compare)
}

// addresses returns those of a host that are known, and sees to it that they will be.
func (l *loop) addresses(name string, now time.Time) []netip.Addr {
	if addr, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{addr.Unmap().WithZone("")}
	}
	h := l.hosts[name]
	if h == nil {
		h = &upstreamHost{seen: map[netip.Addr]time.Time{}, since: now}
		l.hosts[name] = h
	}
	l.lookUp(name, h, now)
	return h.addrs()
}

// refreshUpstreams asks for the hosts whose time has come, without a plan: most answers are the old ones.
func (l *loop) refreshUpstreams(now time.Time) {
	for name, h := range l.hosts {
		l.lookUp(name, h, now)
	}
}

// lookUp asks for the addresses of a host if it is time.
func (l *loop) lookUp(name string, h *upstreamHost, now time.Time) {
	if now.Before(h.again) {
		return
	}
	h.again = now.Add(time.Hour)
	beside(l, lookUp(l.life, l.LookUp, name), func(l *loop, a resolved) { l.lookedUp(name, a.addrs, a.err) })
}

// resolved is an answer to the question for a host's addresses.
type resolved struct {
	addrs []netip.Addr
	err   error
}

// lookUp returns what asks for the addresses of a host, for another goroutine.
func lookUp(life context.Context, ask func(context.Context, string) ([]netip.Addr, error), name string) func() resolved {
	return func() (a resolved) {
		ctx, cancel := context.WithTimeout(life, lookupBound)
		defer cancel()
		a.addrs, a.err = ask(ctx, name)
		for i := range a.addrs {
			a.addrs[i] = a.addrs[i].Unmap().WithZone("")
		}
		return a
	}
}

// answered is the news of a host's addresses.
func (l *loop) lookedUp(name string, addrs []netip.Addr, err error) {
	h, now := l.hosts[name], time.Now()
	if h == nil {
		return // not in the template any more
	}
	h.again = now.Add(l.Interval)
	trouble := "upstream " + name
	if _, ill := l.troubles[trouble]; ill != (err != nil) {
		l.changed = true // for systemd to be told
	}
	if retry := l.troubles.Note(l.Events, now, trouble, err); err != nil {
		h.again = retry
		return
	}
	if now.Sub(h.since) < newUpstreamFor {
		h.again = now.Add(min(newUpstreamInterval, l.Interval))
	}
	if h.heard(addrs, now) {
		l.changed = true
	}
}
