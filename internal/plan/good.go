package plan

import (
	"maps"
	"net/netip"
	"slices"

	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
)

// A Good is what is remembered of the rules of an AppVM for when those of now cannot be used. The zero Good remembers nothing.
type Good struct {
	last *policy.Policy // the last that came up since the AppVM connected; nil if none did
}

// Policy returns what serves if the rules of now cannot be used; nil if nothing does.
func (g *Good) Policy() *policy.Policy { return g.last }

// Is reports whether a policy is that one.
func (g *Good) Is(p *policy.Policy) bool {
	good := g.Policy()
	return good != nil && good.At(p.Bind, p.Places).Key() == p.Key()
}

// Came takes in that a process with a policy has come up.
func (g *Good) Came(p *policy.Policy) { g.last = p }

// Forget forgets everything: the AppVM has gone.
func (g *Good) Forget() { *g = Good{} }

// Follow takes in what should be there for an AppVM, and what is there: runs reports whether a process with a policy listens. serves is the
// policy of the process that serves the AppVM, if that has started since it connected; nil otherwise.
func (g *Good) Follow(in Inputs, d *Desired, failures backoff.Failures, runs func(*policy.Policy) bool, serves *policy.Policy) {
	if !d.Connected() {
		g.Forget()
	}
	switch {
	case !d.Wanted() || d.Waits || d.Policy == nil:
	case runs(d.Policy):
		g.Came(d.Policy) // also if it came up long ago, and serves again because rules were taken back
	case g.last == nil && serves != nil && !serves.Learns() && d.Policy.PermitsAll(serves):
		g.last = serves // the rules have changed again before this was known to be good
	}
	g.last = d.stillGood(g.last, failures)
	g.last = in.stillAllowed(g.last)
}

// stillGood returns the last good policy of the AppVM, or nil if it must not be taken up again: other rules have taken something away
// that it permits, although they do not run, because the AppVM is stopped, or because their process does not start. A mistake that follows
// must not give that back. Rules that tinyproxy has refused take nothing away, and those that it will be asked about as soon as all
// proxies have ended do not yet.
func (d *Desired) stillGood(last *policy.Policy, failures backoff.Failures) *policy.Policy {
	if last == nil || !d.Connected() || d.Policy == nil {
		return last
	}
	f := failures[d.Policy.Key()]
	if f.Bad || d.StoppedBy == "" && f.Err == nil || d.Policy.PermitsAll(last.At(d.Bind, d.Places.Of(last))) {
		return last
	}
	return nil
}

// stillAllowed returns what is left of a policy below the ceiling, and without what has been allowed for a time that is over.
func (in Inputs) stillAllowed(p *policy.Policy) *policy.Policy {
	if p == nil {
		return nil
	}
	return p.Only(in.Temporary[Identity{p.Name, p.Addr}]).Under(in.Rules.Ceiling)
}

// Prune forgets the failures of policies that are no longer wanted.
func (g *Good) Prune(d *Desired, failures backoff.Failures) {
	good := g.Policy()
	maps.DeleteFunc(failures, func(key string, _ backoff.Failure) bool {
		return !d.Connected() || !(d.Policy != nil && d.Policy.Key() == key || good != nil && good.At(d.Bind, d.Places.Of(good)).Key() == key)
	})
}

// Restarted returns the AppVMs that are not connected by any vif of before. If they are connected, they have restarted too fast for
// anybody to see them gone.
func Restarted(before, now []*Desired) (all []netip.Addr) {
	was := make(map[netip.Addr][]string, len(before))
	for _, d := range before {
		was[d.Addr] = d.Vifs
	}
	for _, d := range now {
		stays := slices.ContainsFunc(d.Vifs, func(vif string) bool { return slices.Contains(was[d.Addr], vif) })
		if len(was[d.Addr]) > 0 && !stays {
			all = append(all, d.Addr)
		}
	}
	return all
}
