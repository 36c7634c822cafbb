package proxies

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/names/wire"
	"vifproxy/rules"
	"vifproxy/tinyproxy/limits"
	proc "vifproxy/tinyproxy/process"
)

// Names is what proxies ask for names: package internal/nameserver.
type Names interface {
	// Open lets processes of a uid ask for what a gate permits. It returns when they may, or with an error soon.
	Open(ctx context.Context, g wire.Gate) (id int64, err error)
	// Close takes that back. It never waits.
	Close(id int64)
}

// gates are the gates of the processes that run: each has its own, from before it starts until it has ended.
type gates struct {
	names  Names
	forAll []rules.Egress

	mu    sync.Mutex
	open  map[int64]*policy.Policy
	lists *limits.Shelf // what the resolver holds; nil if it has room for any

	// closed are the lists of gates that were closed, by uid: the resolver still remembers the last ones for a moment.
	closed map[uint32][]*closedList
}

// A closedList counts until the resolver has forgotten it.
type closedList struct {
	size  limits.Rules
	timer *time.Timer
}

// of opens the gate of a process that is about to start. shut closes it. The error is a BadPolicy if the resolver has no room for the list.
func (g *gates) of(ctx context.Context, p *policy.Policy, uid uint32) (shut func(), err error) {
	if g.names == nil {
		return func() {}, nil
	}
	gate := p.Gate(g.forAll)
	gate.UID = uid
	size := limits.SizeOf(gate.Lines)
	var tooLong *limits.TooLong
	if err := g.put(size); errors.As(err, &tooLong) {
		return nil, BadPolicy{&proc.Error{Doing: "start proxy", VM: p.Name, Addr: p.Addr, Text: p.RulesPath, Err: err, Remedy: tooLong.Remedy, Config: true}}
	}
	id, err := g.names.Open(ctx, gate)
	if err != nil {
		g.linger(uid, size) // it may have come to the resolver
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[id] = p
	return func() {
		g.mu.Lock()
		delete(g.open, id)
		g.mu.Unlock()
		g.names.Close(id)
		g.linger(uid, size)
	}, nil
}

// put makes room for a list in the resolver.
func (g *gates) put(size limits.Rules) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lists == nil {
		return nil
	}
	return g.lists.Put(size)
}

// linger takes a list away that was put there, when the resolver has forgotten the gate.
func (g *gates) linger(uid uint32, size limits.Rules) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lists == nil {
		return
	}
	c := &closedList{size: size}
	c.timer = time.AfterFunc(wire.RecentTime, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.forget(uid, c)
	})
	if g.closed == nil {
		g.closed = map[uint32][]*closedList{}
	}
	g.closed[uid] = append(g.closed[uid], c)
	if all := g.closed[uid]; len(all) > wire.RecentMax {
		all[0].timer.Stop()
		g.forget(uid, all[0])
	}
}

// forget forgets a closed list, unless that has happened. The caller has the lock.
func (g *gates) forget(uid uint32, c *closedList) {
	i := slices.Index(g.closed[uid], c)
	if i < 0 {
		return
	}
	g.lists.Take(c.size)
	if g.closed[uid] = slices.Delete(g.closed[uid], i, i+1); len(g.closed[uid]) == 0 {
		delete(g.closed, uid)
	}
}

var errNoGate = errors.New("the process has ended, or has not begun")

// Permits asks a real tinyproxy whether the list behind a gate permits a name.
func (t *Tinyproxies) Permits(ctx context.Context, gate int64, name string) (bool, error) {
	t.gates.mu.Lock()
	p := t.gates.open[gate]
	t.gates.mu.Unlock()
	if p == nil {
		return false, errNoGate
	}
	return p.Permits(ctx, name)
}

// AskNames has processes that start from now on ask there for names.
func (t *Tinyproxies) AskNames(n Names) { t.gates.names = n }
