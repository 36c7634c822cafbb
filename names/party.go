package names

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/ipv4"
	"golang.org/x/time/rate"

	"vifproxy/names/wire"
)

const (
	// questionRate is how many questions a second one AppVM's proxy may ask in the long run. tinyproxy asks twice for each request.
	questionRate  = 4000
	questionBurst = 4000
	// ownedPrice is how many questions a question costs that no tinyproxy asks.
	ownedPrice = 10
	// queueMax is how many messages of one proxy wait to be read.
	queueMax = 256
	// flightsMax is for how many names one proxy has questions under way.
	flightsMax = 64
	// askedMax is how many questions of one proxy wait for answers.
	askedMax = 1024
)

// A party is the processes of one uid, which are one AppVM's proxy: what they may ask, have asked, and were answered.
type party struct {
	resolver *Resolver
	uid      uint32
	at       netip.Addr
	source   []byte        // control message that sends from at
	rate     *rate.Limiter // of questions
	tallies  tallies

	queueMu sync.Mutex
	queue   []message
	busy    bool // somebody handles what is in the queue

	mu      sync.Mutex
	gates   []*gate // that are open
	recent  []*gate // that were closed a moment ago
	book    *book   // nil without gates
	flights map[string]*flight
	flying  int
	backlog []*flight // those that wait until others have ended
	asked   int       // questions that wait for answers
	pins    map[netip.Addr]*pin
	pinRate *rate.Limiter
	judging *rate.Limiter // what a real tinyproxy is asked
}

// A message is what came from a socket of a proxy.
type message struct {
	from netip.AddrPort
	text []byte
}

func newParty(r *Resolver, uid uint32, at netip.Addr) *party {
	p := &party{resolver: r, uid: uid, at: at, source: (&ipv4.ControlMessage{Src: at.AsSlice()}).Marshal(),
		rate: rate.NewLimiter(questionRate, questionBurst), flights: map[string]*flight{}, pins: map[netip.Addr]*pin{},
		pinRate: rate.NewLimiter(pinRate, pinBurst), judging: rate.NewLimiter(judgeRate, judgeBurst)}
	p.tallies.tell = func(e wire.Event) {
		e.UID = uid
		r.tell(e)
	}
	return p
}

const tooFast = "its proxy asks too many questions a second"

// tooMany notes that a question was dropped. The C library asks again after 5 s.
func (p *party) tooMany(name, why string) {
	p.tallies.add(wire.Event{Failure: wire.TooMany, Name: readable(name), Why: why})
}

// take takes a message in, or drops it. It never waits.
func (p *party) take(from netip.AddrPort, text []byte) {
	if !p.rate.Allow() {
		p.tooMany("", tooFast)
		return
	}
	p.queueMu.Lock()
	defer p.queueMu.Unlock()
	if len(p.queue) == queueMax {
		p.tooMany("", tooFast)
		return
	}
	p.queue = append(p.queue, message{from, slices.Clone(text)})
	if !p.busy {
		p.busy = true
		go p.work()
	}
}

// work handles what is in the queue, one message after the other, so that one AppVM has one goroutine to parse and compare.
func (p *party) work() {
	for {
		p.queueMu.Lock()
		all := p.queue
		p.queue = nil
		p.busy = len(all) > 0
		p.queueMu.Unlock()
		if len(all) == 0 {
			return
		}
		for _, m := range all {
			p.handle(m)
		}
	}
}

func (p *party) handle(m message) {
	q, is := parse(m.text)
	switch is {
	case malformed:
		if !p.lenient() { // the name may be what makes no sense
			p.owned("", "", "a message that makes no sense")
		}
	case strange:
		p.owned(q.name(), typeName(q.question.Type), "a question that no tinyproxy asks")
		p.reply(m.from, &q, dnsmessage.RCodeRefused, nil, 0)
	case reverse: // tinyproxy 1.10 looks its clients up (src/sock.c), and so does any version for names in Allow and Deny (src/acl.c of 1.11)
		p.reply(m.from, &q, dnsmessage.RCodeNameError, nil, 0)
	case addresses:
		p.ask(q.name(), asked{from: m.from, id: q.header.ID, typ: q.question.Type, done: func(o outcome) { p.answer(m.from, &q, o) }})
	}
}

// lenient reports whether clients may choose the names that the proxy asks for.
func (p *party) lenient() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.gates, func(g *gate) bool { return g.lenient })
}

// answer answers a question of a proxy.
func (p *party) answer(to netip.AddrPort, q *query, o outcome) {
	typ := typeName(q.question.Type)
	code := dnsmessage.RCodeSuccess
	switch o.failure {
	case wire.TooMany:
		return // the C library asks again
	case wire.Owned:
		code = dnsmessage.RCodeRefused
		if !o.quiet && !p.lenient() {
			p.owned(q.name(), typ, o.why)
		}
	case wire.NoSuchName:
		code = dnsmessage.RCodeNameError
	case wire.Silent, wire.ServerError:
		code = dnsmessage.RCodeServerFailure
	}
	p.reply(to, q, code, o.addrs, o.ttl)
}

func (p *party) reply(to netip.AddrPort, q *query, code dnsmessage.RCode, addrs []netip.Addr, ttl time.Duration) {
	if text, err := q.reply(code, addrs, ttl); err == nil {
		p.resolver.send(text, p.source, to)
	}
}

// owned notes that the proxy has asked what no tinyproxy asks.
func (p *party) owned(name, typ, why string) {
	_ = p.rate.ReserveN(time.Now(), ownedPrice-1)
	p.tallies.add(wire.Event{Failure: wire.Owned, Name: readable(name), Type: typ, Why: why})
}

// verdict says whether a name is permitted by an open gate, and otherwise what becomes of the question. The caller has the lock.
func (p *party) verdict(name string) (v verdict, otherwise outcome) {
	if v := permits(p.gates, name); v != no {
		return v, outcome{}
	}
	for _, domain := range p.resolver.settings.Load().domains {
		if base := len(name) - len(domain) - 1; base > 0 && below(plain(name), domain) &&
			(permits(p.gates, name[:base]) != no || permits(p.recent, name[:base]) != no) {
			return no, outcome{failure: wire.NoSuchName, quiet: true}
		}
	}
	return no, outcome{failure: wire.Owned, why: "a name that its list does not permit", quiet: permits(p.recent, name) != no}
}

// permits returns what the most generous of some gates says of a name.
func permits(gates []*gate, name string) (v verdict) {
	for _, g := range gates {
		switch g.permits(name) {
		case yes:
			return yes
		case doubt:
			v = doubt
		}
	}
	return v
}

// opens reports whether an opening of the AppVM leads to an address.
func (p *party) opens(addr netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.gates, func(g *gate) bool { return g.opens(addr) })
}

// open lets the processes of the party ask what a gate permits, too.
func (p *party) open(g *gate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gates = append(slices.Clip(p.gates), g)
	if p.book == nil {
		p.book = p.resolver.newBook()
	}
}

// close takes back what open gave, and what only this gate permits. It returns false if there is no such gate. After the last one,
// nothing is left of what the AppVM was answered.
func (p *party) close(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.gates, func(g *gate) bool { return g.id == id })
	if i < 0 {
		return false
	}
	g := p.gates[i]
	p.gates = slices.Concat(p.gates[:i], p.gates[i+1:])
	p.remember(g)
	if len(p.gates) == 0 {
		p.book.end()
		p.book = nil
	}
	p.unpinForbidden()
	return true
}

// closed remembers a gate that was closed before this resolver began.
func (p *party) closed(g *gate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remember(g)
}

// remember remembers a closed gate for a moment. The caller has the lock.
func (p *party) remember(g *gate) {
	p.recent = append(p.recent, g)
	if len(p.recent) > wire.RecentMax {
		p.recent = slices.Delete(p.recent, 0, 1)
	}
	time.AfterFunc(wire.RecentTime, func() { p.forget(g) })
}

// forget forgets a gate that was closed.
func (p *party) forget(g *gate) {
	p.mu.Lock()
	p.recent = slices.DeleteFunc(p.recent, func(x *gate) bool { return x == g })
	p.mu.Unlock()
	p.resolver.removeIfGone(p)
}

// gone reports whether nobody asks any more.
func (p *party) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.gates) == 0 && len(p.recent) == 0
}

// life returns what ends when the AppVM may ask nothing any more, and its book; nil if it may not.
func (p *party) life() *book {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.book
}

// A book is what one AppVM was answered, and ends with its last gate.
type book struct {
	looker
	ctx context.Context
	end context.CancelFunc
}
