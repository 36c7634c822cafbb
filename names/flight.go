package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/firewall"
	"vifproxy/names/ask"
	"vifproxy/names/wire"
)

const (
	// flightTime is how long an answer may take. Name servers take at most 10 s.
	flightTime = 15 * time.Second
	// upstreamTime is how old an answer to the daemon may be that is given to a proxy. The daemon asks every 5 min, and the fence keeps
	// what it was answered open for 10 min (internal/upstreams).
	upstreamTime = 9 * time.Minute
)

// An outcome is what became of a question. It has addresses, of one family, or a failure.
type outcome struct {
	addrs   []netip.Addr
	ttl     time.Duration
	failure wire.Failure
	why     string
	quiet   bool // a failure that nobody is told of
	opened  bool // the fence has opened the addresses already
}

// asked is a question that waits for an outcome.
type asked struct {
	from netip.AddrPort // who asks again with the same id and type gets one answer; the zero AddrPort is the daemon
	id   uint16
	typ  dnsmessage.Type
	done func(outcome) // must not block
}

func (a asked) same(b asked) bool {
	return a.from.IsValid() && a.from == b.from && a.id == b.id && a.typ == b.typ
}

// A flight is one name that is being looked for, for all who ask for it at the same time.
type flight struct {
	name  string
	doubt bool // only a real tinyproxy can tell whether the name is permitted
	typ   dnsmessage.Type
	asked []asked
}

// ask finds an outcome for a question, now or later.
func (p *party) ask(name string, a asked) {
	if o, now := p.join(name, a); now {
		a.done(o)
	}
}

// join lets a question wait for the flight of its name, or returns its outcome.
func (p *party) join(name string, a asked) (o outcome, now bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v, otherwise := p.verdict(name)
	f := p.flights[name]
	switch {
	case v == no:
		return otherwise, true
	case f != nil && slices.ContainsFunc(f.asked, a.same):
		return o, false
	case p.asked == askedMax:
		p.tooMany(name, manyUnderWay)
		return outcome{failure: wire.TooMany, why: manyUnderWay}, true
	case f == nil:
		f = &flight{name: name, typ: a.typ, doubt: v == doubt}
		p.flights[name] = f
		if p.flying < flightsMax {
			p.flying++
			go p.fly(f)
		} else {
			p.backlog = append(p.backlog, f)
		}
	}
	p.asked++
	f.asked = append(f.asked, a)
	return o, false
}

const manyUnderWay = "too many questions are under way"

// fly finds the outcomes of a flight, and of those that have waited for it.
func (p *party) fly(f *flight) {
	for f != nil {
		o := p.find(f)
		switch {
		case o.failure == wire.TooMany:
			p.tooMany(f.name, o.why)
		case o.failure != "" && o.failure != wire.Owned:
			p.tallies.tellSome(wire.Event{Failure: o.failure, Name: readable(f.name), Type: typeName(f.typ), Why: o.why, Count: 1})
		}
		var waiting []asked
		waiting, f = p.end(f)
		for _, a := range waiting {
			a.done(o)
		}
	}
}

// end ends a flight. It returns who waits for its outcome, and the next flight.
func (p *party) end(f *flight) (waiting []asked, next *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked -= len(f.asked)
	delete(p.flights, f.name)
	if len(p.backlog) > 0 {
		next, p.backlog = p.backlog[0], p.backlog[1:]
	} else {
		p.flying--
	}
	return f.asked, next
}

// find finds the outcome of a flight. What it returns may be sent: its addresses are open.
func (p *party) find(f *flight) outcome {
	book := p.life()
	if book == nil {
		return outcome{failure: wire.Owned, quiet: true}
	}
	ctx, cancel := context.WithTimeout(book.ctx, flightTime)
	defer cancel()
	if f.doubt {
		if o := p.judged(ctx, f.name); o.failure != "" {
			return o
		}
	}
	upstream := p.isUpstream(f.name)
	o := p.resolver.look(ctx, book, f.name, upstream)
	if book.ctx.Err() != nil {
		return outcome{failure: wire.Owned, quiet: true}
	}
	if o.failure != "" || o.opened {
		return o
	}
	kept := make([]netip.Addr, 0, min(len(o.addrs), addrsMax))
	public := make([]netip.Addr, 0, cap(kept))
	most := room(f.name, o.addrs[0].Is6())
	for _, a := range o.addrs {
		isPublic := firewall.Public(a)
		// A resolver that has just started does not know what the daemon was answered about an Upstream, and the fence does.
		if len(kept) == most || !isPublic && !upstream && !p.opens(a) {
			continue
		}
		kept = append(kept, a)
		if isPublic {
			public = append(public, a)
		}
	}
	if len(kept) == 0 {
		return outcome{failure: wire.Fence, why: "it leads to " + several(o.addrs) + ", which no proxy may reach"}
	}
	if failed := p.pin(ctx, f.name, public, o.ttl, pinRenewed); failed.failure != "" {
		return failed
	}
	o.addrs = p.resolver.rotate(kept)
	return o
}

// several names the first addresses, for people.
func several(addrs []netip.Addr) string {
	const few = 3
	var all []string
	for _, a := range addrs[:min(len(addrs), few)] {
		all = append(all, a.String())
	}
	if more := len(addrs) - few; more > 0 {
		all = append(all, fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

// isUpstream reports whether the name is one that the fence opens the addresses of.
func (p *party) isUpstream(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.gates, func(g *gate) bool { return g.also[plain(name)] })
}

// look finds the addresses of a name: in what the daemon was answered, if it opens them, in hosts(5), and at the name servers.
func (r *Resolver) look(ctx context.Context, book *book, name string, upstream bool) outcome {
	if upstream {
		if o, ok := r.upstream(plain(name)); ok {
			return o
		}
	}
	if addrs := r.settings.Load().hosts[plain(name)]; len(addrs) > 0 {
		return outcome{addrs: addrs, ttl: hostsTTL}
	}
	result, err := book.Look(ctx, name)
	var failed *ask.Error
	switch {
	case errors.As(err, &failed) && failed.Reason == ask.Silent:
		return outcome{failure: wire.Silent, why: failed.Error()}
	case errors.As(err, &failed) && failed.Reason == ask.Busy:
		return outcome{failure: wire.TooMany, why: failed.Error()}
	case errors.As(err, &failed):
		return outcome{failure: wire.ServerError, why: failed.Error()}
	case err != nil:
		return outcome{failure: wire.Silent, why: "the name servers have not answered in time"}
	case result.NoSuchName:
		return outcome{failure: wire.NoSuchName, why: "the name servers know no such name"}
	}
	// An address of IPv4 in one of IPv6 (RFC 4291, section 2.5.5.2) leads to somewhere else than it says.
	addrs := slices.DeleteFunc(slices.Concat(result.Addrs4, result.Addrs6), netip.Addr.Is4In6)
	if len(addrs) == 0 {
		return outcome{failure: wire.NoAddress, why: "it has no address"}
	}
	return outcome{addrs: addrs, ttl: max(0, result.TTL)}
}
