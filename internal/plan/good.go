package plan

import (
	"maps"
	"net/netip"
	"slices"

	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
)

// A Good is what is remembered of the rules of an AppVM for when those of now cannot be used. The zero Good remembers nothing.
//
// Rules that could be read may be followed by others before their process has come up: it starts slowly, or nothing may start. If they
// took something away and the others cannot be used, these are the rules to serve, and not older ones that permit more.
type Good struct {
	last     *policy.Policy // the last that came up since the AppVM connected; nil if none did
	read     *policy.Policy // those of now, if they can be used as far as they were read
	unjudged *policy.Policy // newer than last and followed by others, took something away, and nobody knows whether tinyproxy takes them
	revoked  bool           // so did others than unjudged: if tinyproxy refuses unjudged, last permits too much
}

// Policy returns what serves if the rules of now cannot be used; nil if nothing does.
func (g *Good) Policy() *policy.Policy {
	if g.unjudged != nil {
		return g.unjudged
	}
	return g.last
}

// Policies returns all that may serve yet if the rules of now cannot be used.
func (g *Good) Policies() []*policy.Policy { return []*policy.Policy{g.last, g.unjudged} }

// Is reports whether a policy is that one.
func (g *Good) Is(p *policy.Policy) bool {
	good := g.Policy()
	return good != nil && good.At(p.Bind, p.Places).Key() == p.Key()
}

// Came takes in that a process with a policy has come up.
func (g *Good) Came(p *policy.Policy) { g.last, g.unjudged, g.revoked = p, nil, false }

// Forget forgets everything: the AppVM has gone.
func (g *Good) Forget() { *g = Good{} }

// Follow takes in what should be there for an AppVM, and what is there: runs reports whether a process with a policy listens. serves is the
// policy of the process that serves the AppVM, if that has started since it connected; nil otherwise.
func (g *Good) Follow(in Inputs, d *Desired, failures backoff.Failures, runs func(*policy.Policy) bool, serves *policy.Policy) {
	if !d.Connected() {
		g.Forget()
	}
	g.leave(d, failures)
	switch {
	case g.unjudged != nil && runs(d.moved(g.unjudged)):
		g.Came(g.unjudged)
	case g.unjudged != nil && failures[d.moved(g.unjudged).Key()].Bad:
		if g.unjudged = nil; g.revoked {
			g.last, g.revoked = nil, false
		}
	}
	switch {
	case !d.Wanted() || d.Waits || d.Policy == nil:
	case runs(d.Policy):
		g.Came(d.Policy) // also if it came up long ago, and serves again because rules were taken back
	case g.last == nil && serves != nil && !serves.Learns() && d.Policy.PermitsAll(serves):
		g.last = serves // the rules have changed again before this was known to be good
	}
	if !d.stillGood(g.last, failures) || !d.stillGood(g.unjudged, failures) {
		g.last, g.unjudged, g.revoked = nil, nil, false
	}
	g.last, g.unjudged = in.stillAllowed(g.last), in.stillAllowed(g.unjudged)
}

// leave takes in that others have followed the rules of before. If these took something away and nobody knows whether tinyproxy takes
// them, they are remembered.
func (g *Good) leave(d *Desired, failures backoff.Failures) {
	was := g.read
	if g.read = nil; d.Connected() {
		g.read = d.Policy
	}
	if was == nil || g.Policy() == nil || g.read != nil && g.read.Key() == was.Key() || failures[was.Key()].Bad {
		return
	}
	takesFrom := func(good *policy.Policy) bool {
		return good != nil && !listPermitsAll(was, good.At(was.Bind, d.Places.Of(good)))
	}
	g.revoked = g.revoked || g.unjudged != nil && (takesFrom(g.unjudged) || takesFrom(g.last))
	if takesFrom(g.Policy()) {
		g.unjudged = was
	}
}

// listPermitsAll reports whether the list of a policy permits all that the list of an older one does. What is allowed for a time does not count:
// it ends, and what the list has taken away must not stay then.
func listPermitsAll(p, old *policy.Policy) bool { return p.Only(nil).PermitsAll(old.Only(nil)) }

// moved returns a policy for the gateway and the places of now.
func (d *Desired) moved(p *policy.Policy) *policy.Policy { return p.At(d.Bind, d.Places.Of(p)) }

// stillGood reports whether a policy of before may be taken up again. It may not if the rules of now have taken something away that it
// permits, although they do not run, because the AppVM is stopped, or because their process does not start. A mistake that follows must
// not give that back. Rules that tinyproxy has refused take nothing away, and those about which nobody has asked it do not yet.
func (d *Desired) stillGood(good *policy.Policy, failures backoff.Failures) bool {
	if good == nil || !d.Connected() || d.Policy == nil {
		return true
	}
	f := failures[d.Policy.Key()]
	return f.Bad || d.StoppedBy == "" && f.Err == nil || listPermitsAll(d.Policy, d.moved(good))
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
		return !d.Connected() || !(d.Policy != nil && d.Policy.Key() == key || good != nil && d.moved(good).Key() == key)
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
