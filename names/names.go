// Package names answers the questions for names that proxies ask. It permits each AppVM's proxy the names that its list has, asks name
// servers, and has the daemon open the addresses to that proxy before it answers with them.
//
// The kernel says which AppVM asks: it sends the questions of each uid on to an address of the loopback that is this uid's. A message
// that is no question of tinyproxy's C library is dropped or refused, and counted: its sender is owned.
//
// It trusts the daemon, and nobody else: proxies and name servers may be hostile. All of this is in a process of its own, which the
// daemon does not trust: see package wire for what they say to each other.
//
//	socket ─► party.take ─► party.work: parse, gates ─► flight: hosts, cache, name servers ─► pin ─► answer
//
// Concurrency: one goroutine reads the socket, and never waits. Each AppVM that asks has one that parses and compares names, and at most
// flightsMax that wait for name servers, the kernel or a real tinyproxy. What all AppVMs share is bounded for each.
package names

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/names/ask"
	"vifproxy/names/cache"
	"vifproxy/names/wire"
)

const (
	// reportsMax is how many reports wait for the daemon. Then those who make them wait too, and events are dropped.
	reportsMax = 4096
	// gateOrdersMax is how many gates wait to be opened or closed.
	gateOrdersMax = 1024
	// upstreamsMax is how many answers to the daemon are remembered.
	upstreamsMax = 256
	// routeTime is how long it is believed that IPv4 has a route, or none.
	routeTime = time.Second
)

// A looker finds addresses of names, and remembers them. It is a *cache.Book.
type looker interface {
	Look(ctx context.Context, name string) (cache.Result, error)
}

// A Resolver answers questions.
type Resolver struct {
	encoder    *wire.Encoder[wire.Report]
	decoder    *wire.Decoder[wire.Order]
	reports    chan wire.Report
	gates      chan wire.Order // those about gates, in their order: a long list takes a while
	socket     *socket
	asker      *ask.Asker
	own        *book // of the daemon
	settings   atomic.Pointer[settings]
	begin      sync.Once // closes configured, when there are settings: until then, questions wait in the socket
	configured chan struct{}
	turn       atomic.Uint32 // of addresses
	route      route
	pinning    waiting[bool]
	judging    waiting[wire.Judged]
	judges     chan struct{}

	life  context.Context
	group sync.WaitGroup

	mu        sync.Mutex // before that of a party
	byUID     map[uint32]*party
	byAddr    atomic.Pointer[map[netip.Addr]*party] // replaced as a whole
	upstreams map[string]upstreamAnswer
}

// An upstreamAnswer is what the daemon was answered.
type upstreamAnswer struct {
	outcome
	at time.Time
}

// New returns a Resolver that speaks with the daemon through one socket, and with proxies through the other one, which is bound.
func New(daemon net.Conn, questions *net.UDPConn) (*Resolver, error) {
	socket, err := newSocket(questions)
	if err != nil {
		return nil, err
	}
	r := &Resolver{encoder: wire.NewEncoder[wire.Report](daemon), decoder: wire.NewDecoder[wire.Order](daemon),
		reports: make(chan wire.Report, reportsMax), gates: make(chan wire.Order, gateOrdersMax), socket: socket, asker: ask.New(),
		judges: make(chan struct{}, judgesMax), configured: make(chan struct{}), byUID: map[uint32]*party{}, upstreams: map[string]upstreamAnswer{}}
	r.settings.Store(newSettings(&wire.Settings{}))
	r.byAddr.Store(&map[netip.Addr]*party{})
	return r, nil
}

// Run answers questions until the daemon goes, which is no error, or ctx ends. It closes the socket that questions come to.
func (r *Resolver) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	r.life = ctx
	r.own = r.newBook()
	defer r.group.Wait()
	defer cancel(nil)
	context.AfterFunc(ctx, r.socket.close)
	r.group.Go(func() {
		select {
		case <-r.configured:
		case <-ctx.Done():
			return
		}
		if err := r.socket.read(r.take); ctx.Err() == nil {
			cancel(fmt.Errorf("socket for questions: %w", err))
		}
	})
	r.group.Go(func() {
		for ctx.Err() == nil {
			select {
			case m := <-r.reports:
				if err := r.encoder.Encode(m); errors.Is(err, unix.EPIPE) {
					return // obey notices, too, that the daemon has gone
				} else if err != nil {
					cancel(fmt.Errorf("report to the daemon: %w", err))
				}
			case <-ctx.Done():
			}
		}
	})
	r.group.Go(func() {
		for ctx.Err() == nil {
			select {
			case o := <-r.gates:
				if err := r.openOrClose(o); err != nil {
					cancel(err)
				}
			case <-ctx.Done():
			}
		}
	})
	r.group.Go(func() { r.keepHosts(ctx) })
	orders := make(chan error, 1)
	go func() { orders <- r.obey() }() // ends with the process, or the caller's end of the connection
	r.report(wire.Report{Ready: true})
	select {
	case err := <-orders:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// obey does what the daemon says, until it says no more.
func (r *Resolver) obey() error {
	for {
		o, err := r.decoder.Decode()
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) { // the latter if it has left reports unread
			return nil
		}
		if err != nil {
			return fmt.Errorf("order of the daemon: %w", err)
		}
		switch {
		case o.Settings != nil:
			r.configure(o.Settings)
		case o.Open != nil, o.Close != 0:
			select {
			case r.gates <- o:
			case <-r.life.Done():
				return context.Cause(r.life)
			}
		case o.Pinned != nil:
			r.pinning.tell(o.Pinned.ID, o.Pinned.OK)
		case o.Judged != nil:
			r.judging.tell(o.Judged.ID, *o.Judged)
		case o.Ask != nil:
			go r.askFor(*o.Ask)
		}
	}
}

// configure takes over what the machine says about names.
func (r *Resolver) configure(w *wire.Settings) {
	s := newSettings(w)
	r.asker.Configure(s.config)
	r.settings.Store(s)
	r.begin.Do(func() { close(r.configured) })
	if s.pinHosts {
		go r.pinAllHosts(r.life)
	}
}

// openOrClose opens a gate, or closes one.
func (r *Resolver) openOrClose(o wire.Order) error {
	if o.Close != 0 {
		r.mu.Lock()
		parties := slices.Collect(maps.Values(r.byUID))
		r.mu.Unlock()
		if !slices.ContainsFunc(parties, func(p *party) bool { return p.close(o.Close) }) {
			return fmt.Errorf("gate %d is closed, and was not open", o.Close)
		}
		r.report(wire.Report{Closed: o.Close})
		return nil
	}
	g, err := newGate(o.Open)
	if err != nil {
		return err
	}
	p, err := r.open(o.Open.UID, o.Open.At, g, o.Open.Closed)
	if err != nil || o.Open.Closed {
		return err
	}
	if s := r.settings.Load(); s.pinHosts {
		go p.pinHosts(r.life, s.hosts)
	}
	r.report(wire.Report{Opened: g.id})
	return nil
}

// open opens a gate of a uid, or remembers that it is closed. It makes the party if there is none.
func (r *Resolver) open(uid uint32, at netip.Addr, g *gate, closed bool) (*party, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.byUID[uid]
	parties := *r.byAddr.Load()
	switch {
	case p != nil && p.at == at:
	case p != nil || parties[at] != nil || !at.Is4():
		return nil, fmt.Errorf("uid %d asks from %v", uid, at)
	default:
		p = newParty(r, uid, at)
		r.byUID[uid] = p
		parties = maps.Clone(parties)
		parties[at] = p
		r.byAddr.Store(&parties)
	}
	if closed {
		p.closed(g)
	} else {
		p.open(g)
	}
	return p, nil
}

// removeIfGone removes a party of which nobody asks any more.
func (r *Resolver) removeIfGone(p *party) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUID[p.uid] != p || !p.gone() {
		return
	}
	delete(r.byUID, p.uid)
	parties := maps.Clone(*r.byAddr.Load())
	delete(parties, p.at)
	r.byAddr.Store(&parties)
}

// parties returns how many there are, at least 1.
func (r *Resolver) parties() int { return max(1, len(*r.byAddr.Load())) }

// take takes in what came to an address.
func (r *Resolver) take(at netip.Addr, from netip.AddrPort, message []byte) {
	if p := (*r.byAddr.Load())[at]; p != nil {
		p.take(from, message)
	}
}

func (r *Resolver) send(message, control []byte, to netip.AddrPort) {
	r.socket.write(message, control, to)
}

// report says something to the daemon. It waits if the daemon does not read.
func (r *Resolver) report(m wire.Report) {
	select {
	case r.reports <- m:
	case <-r.life.Done():
	}
}

// tell has people told of an event, unless the daemon has much to read.
func (r *Resolver) tell(e wire.Event) {
	if len(r.reports) < reportsMax/2 {
		r.report(wire.Report{Event: &e})
	}
}

func (r *Resolver) newBook() *book {
	ctx, end := context.WithCancel(r.life)
	return &book{cache.New(ctx, r.asker.Share(), r.route.there), ctx, end}
}

// rotate returns addresses in another order each time, as name servers do, so that not all connections go to the first.
func (r *Resolver) rotate(addrs []netip.Addr) []netip.Addr {
	n := int(r.turn.Add(1)) % len(addrs)
	return slices.Concat(addrs[n:], addrs[:n])
}

// askFor answers a question of the daemon.
func (r *Resolver) askFor(q wire.Question) {
	answer := func(o outcome) {
		a := &wire.Answer{ID: q.ID, Failure: o.failure, Why: o.why}
		if o.failure == "" {
			a.Addrs, a.TTL = o.addrs[:min(len(o.addrs), wire.AddrsMax)], int(o.ttl/time.Second)
		}
		r.report(wire.Report{Answer: a})
	}
	if q.UID == 0 {
		ctx, cancel := context.WithTimeout(r.life, flightTime)
		defer cancel()
		o := r.look(ctx, r.own, q.Name, false)
		if o.failure == "" {
			r.remember(plain(q.Name), o)
		}
		answer(o)
		return
	}
	r.mu.Lock()
	p := r.byUID[q.UID]
	r.mu.Unlock()
	if p == nil {
		answer(outcome{failure: wire.Owned, why: "nobody may ask"})
		return
	}
	p.ask(q.Name, asked{done: answer})
}

// remember remembers what the daemon was answered.
func (r *Resolver) remember(name string, o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(r.upstreams, func(_ string, a upstreamAnswer) bool { return now.Sub(a.at) > upstreamTime })
	if len(r.upstreams) < upstreamsMax {
		r.upstreams[name] = upstreamAnswer{o, now}
	}
}

// upstream returns what the daemon was answered, if that is not too old.
func (r *Resolver) upstream(name string) (o outcome, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.upstreams[name]
	age := time.Since(a.at)
	if !ok || age > upstreamTime {
		return o, false
	}
	a.opened = true
	a.ttl = max(0, a.ttl-age)
	a.addrs = a.addrs[:min(len(a.addrs), room(name, a.addrs[0].Is6()))]
	return a.outcome, true
}

// keepHosts keeps pinned what is to stay pinned of hosts(5).
func (r *Resolver) keepHosts(ctx context.Context) {
	ticker := time.NewTicker(hostsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			r.pinAllHosts(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (r *Resolver) pinAllHosts(ctx context.Context) {
	s := r.settings.Load()
	if !s.pinHosts {
		return
	}
	r.mu.Lock()
	parties := slices.Collect(maps.Values(r.byUID))
	r.mu.Unlock()
	for _, p := range parties {
		p.pinHosts(ctx, s.hosts)
	}
}
