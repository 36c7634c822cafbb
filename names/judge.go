package names

import (
	"context"
	"slices"

	"vifproxy/names/wire"
)

const (
	// judgeRate is for how many names a second of one uid a real tinyproxy is started.
	judgeRate  = 4
	judgeBurst = 64
	// judgesMax is how many names are being judged at once, of all uids.
	judgesMax = 128
)

// judged asks a real tinyproxy about a name that the gates doubt. The outcome has a failure unless one permits it. What none could be
// asked is asked again.
func (p *party) judged(ctx context.Context, name string) (failed outcome) {
	p.mu.Lock()
	gates := p.gates
	p.mu.Unlock()
	for _, g := range gates {
		for _, form := range g.doubtful(name) {
			permits, failed := p.judge(ctx, g, form)
			if failed.failure != "" {
				return failed
			}
			if permits {
				g.learn(name, yes)
				return outcome{}
			}
		}
		if g.permits(name) == doubt {
			g.learn(name, no)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, otherwise := p.verdict(name)
	return otherwise
}

// doubtful returns the forms of a name that only a real tinyproxy can compare.
func (g *gate) doubtful(name string) []string {
	if g.permits(name) != doubt {
		return nil
	}
	return slices.DeleteFunc(forms(name), func(form string) bool {
		_, line := g.matcher.Permits(form)
		return line >= 0
	})
}

// judge asks the daemon about one form of a name.
func (p *party) judge(ctx context.Context, g *gate, form string) (permits bool, failed outcome) {
	r := p.resolver
	tooMany := outcome{failure: wire.TooMany, why: "too many names that only tinyproxy can compare"}
	if !p.judging.Allow() {
		return false, tooMany
	}
	select {
	case r.judges <- struct{}{}:
	case <-ctx.Done():
		return false, tooMany
	}
	defer func() { <-r.judges }()
	id, done := r.judging.begin()
	defer r.judging.end(id)
	r.report(wire.Report{Judge: &wire.Doubt{ID: id, Gate: g.id, Name: form}})
	select {
	case judged := <-done:
		if judged.Failed {
			return false, outcome{failure: wire.ServerError, why: "no tinyproxy could be asked whether its list permits it"}
		}
		return judged.Permits, outcome{}
	case <-ctx.Done():
		return false, tooMany
	}
}
