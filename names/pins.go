package names

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/names/wire"
)

const (
	// pinLeast is how long addresses stay pinned at least, and pinSlack how much longer than their answer is good: a slow connection
	// never meets a pin that has just ended.
	pinLeast = 60 * time.Second
	pinSlack = 30 * time.Second
	// pinRenewed is how much must be left of a pin for an answer to go out without another one. What is pinned of hosts(5) has to last
	// until the next look besides.
	pinRenewed = 30 * time.Second
	// pinsMax is how many addresses of one uid are pinned, and pinsTotal how many of all. As many as pinsLeast are always.
	pinsMax   = 512
	pinsTotal = 1 << 15
	pinsLeast = 64
	// pinnedNamesMax is how many names are remembered for which an address is pinned. If all that are remembered lose their permission,
	// the pin goes.
	pinnedNamesMax = 16
	// pinRate is how often a second new addresses of one uid are pinned in the long run.
	pinRate  = 64
	pinBurst = 512
	// pinTime is how long the kernel may take.
	pinTime = 5 * time.Second
)

// A pin is an address that is open to the party for a time.
type pin struct {
	until  time.Time
	names  []string // for which it is, as they were asked for
	pinned bool     // the kernel has it
}

// pin has the addresses of a name pinned, unless their pins have that much time left, and returns when all are. The outcome has a failure if
// they are not.
func (p *party) pin(ctx context.Context, name string, addrs []netip.Addr, ttl, left time.Duration) (failed outcome) {
	if len(addrs) == 0 {
		return outcome{}
	}
	p.mu.Lock()
	if permits(p.gates, name) != yes { // meanwhile
		p.mu.Unlock()
		return outcome{failure: wire.Owned, quiet: true}
	}
	now := time.Now()
	var missing []netip.Addr
	for _, a := range addrs {
		x := p.pins[a]
		if x != nil {
			x.note(name)
		}
		if x == nil || !x.pinned || x.until.Sub(now) < left {
			missing = append(missing, a)
		}
	}
	if len(missing) == 0 {
		p.mu.Unlock()
		return outcome{}
	}
	if !p.pinRate.AllowN(now, 1) {
		p.mu.Unlock()
		return outcome{failure: wire.TooMany, why: "it leads to new addresses all the time"}
	}
	p.makeRoom(missing)
	lasting := min(max(ttl, pinLeast)+pinSlack, wire.PinMax*time.Second).Truncate(time.Second)
	made := make([]*pin, len(missing))
	for i, a := range missing {
		made[i] = &pin{until: now.Add(lasting)}
		if old := p.pins[a]; old != nil {
			made[i].names = old.names
		}
		made[i].note(name)
		p.pins[a] = made[i]
	}
	id, done := p.resolver.pinning.begin()
	defer p.resolver.pinning.end(id)
	// Under the lock, so that the daemon hears it before it hears that a gate is closed.
	p.resolver.report(wire.Report{Pin: &wire.Pin{ID: id, UID: p.uid, Addrs: missing, Seconds: int(lasting / time.Second)}})
	p.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, pinTime)
	defer cancel()
	ok := false
	select {
	case ok = <-done:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var lost []netip.Addr
	for i, a := range missing {
		if p.pins[a] != made[i] {
			continue // another one came after it, or it was taken away
		}
		if made[i].pinned = ok; !ok {
			lost = append(lost, a)
		}
	}
	p.unpin(lost) // the kernel may have some of them, or get them late
	if !ok {
		return outcome{failure: wire.ServerError, why: "the firewall could not open its addresses"}
	}
	return outcome{}
}

// note remembers a name.
func (x *pin) note(name string) {
	if slices.Contains(x.names, name) {
		return
	}
	if len(x.names) == pinnedNamesMax {
		x.names = slices.Delete(x.names, 0, 1)
	}
	x.names = append(x.names, name)
}

// makeRoom takes the oldest pins away for new ones, those too whose time is over: the daemon rounds times up, and a pin that nobody
// remembers would outlive its gate. The caller has the lock, and so have those below.
func (p *party) makeRoom(coming []netip.Addr) {
	most := min(pinsMax, max(pinsLeast, pinsTotal/p.resolver.parties()))
	if len(p.pins)+len(coming) <= most {
		return
	}
	var others []netip.Addr
	for a := range p.pins {
		if !slices.Contains(coming, a) {
			others = append(others, a)
		}
	}
	slices.SortFunc(others, func(a, b netip.Addr) int { return p.pins[a].until.Compare(p.pins[b].until) })
	p.unpin(others[:max(0, min(len(others), len(p.pins)+len(coming)-most))])
}

// unpin takes pins away.
func (p *party) unpin(addrs []netip.Addr) {
	for _, a := range addrs {
		delete(p.pins, a)
	}
	for some := range slices.Chunk(addrs, wire.AddrsMax) {
		p.resolver.report(wire.Report{Unpin: &wire.Pin{UID: p.uid, Addrs: some}})
	}
}

// unpinForbidden takes the pins away of which no gate permits a name.
func (p *party) unpinForbidden() {
	var forbidden []netip.Addr
	for a, x := range p.pins {
		if !slices.ContainsFunc(x.names, func(name string) bool { return permits(p.gates, name) == yes }) {
			forbidden = append(forbidden, a)
		}
	}
	p.unpin(forbidden)
}

// pinHosts pins what permitted names have in hosts(5), for a C library that reads it itself.
func (p *party) pinHosts(ctx context.Context, hosts map[string][]netip.Addr) {
	for name, addrs := range hosts {
		p.mu.Lock()
		permitted := permits(p.gates, name) == yes
		p.mu.Unlock()
		public := slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !firewall.Public(a) })
		if permitted {
			for some := range slices.Chunk(public, wire.AddrsMax) {
				_ = p.pin(ctx, name, some, wire.PinMax*time.Second, hostsInterval+pinRenewed) // tried again
			}
		}
	}
}
