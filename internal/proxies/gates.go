package proxies

import (
	"context"
	"errors"
	"sync"

	"vifproxy/internal/policy"
	"vifproxy/names/wire"
	"vifproxy/rules"
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

	mu   sync.Mutex
	open map[int64]*policy.Policy
}

// of opens the gate of a process that is about to start. shut closes it.
func (g *gates) of(ctx context.Context, p *policy.Policy, uid uint32) (shut func(), err error) {
	if g.names == nil {
		return func() {}, nil
	}
	gate := p.Gate(g.forAll)
	gate.UID = uid
	id, err := g.names.Open(ctx, gate)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open[id] = p
	return func() {
		g.names.Close(id)
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.open, id)
	}, nil
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
