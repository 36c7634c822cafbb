// Package plan is the pure core of the daemon: what should be there follows from the inputs (desired.go), and what is to be done
// from the difference to what is there (plan.go). It reads no clock, no file and no kernel.
//
// Concurrency: all functions may be called from any goroutine. A Cache belongs to one. Policies are shared, as they never change.
package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/backoff"
	"vifproxy/internal/policy"
)

// A Generation is one process of an AppVM's proxy. A change of policy starts a new one beside the old.
type Generation struct {
	ID       int
	Policy   *policy.Policy
	Port     uint16
	Socket   uint64    // the number of the socket that listens, once it does
	Ready    bool      // it listens; until then it is starting
	Dying    bool      // told to end; nothing more is expected of it
	LostPort bool      // its port no longer belongs to it
	Retired  time.Time // since when a newer one serves; zero if not
	Idle     bool      // retired, and without a client
	Full     bool      // its clients held all its slots when another one replaced it
	Clients  int       // retired, and how many were connected when it was last looked at
}

// An Actual is what there is for one AppVM.
type Actual struct {
	Addr        netip.Addr
	Generations []Generation               // oldest first
	LastGood    *policy.Policy             // serves if the rules of now cannot be used, see Good
	Failures    map[string]backoff.Failure // of policies that did not stay up, by key
}

// Limits bound what retired generations may cost.
type Limits struct {
	Drain       time.Duration // how long established connections may go on after a change that took nothing away
	Generations int           // how many retired ones an AppVM may have
	Full        int           // how many of these may be full
}

// A Plan is the difference between what is and what should be. Bindings are those that hold from now on, in full. What ends does
// so when they are in force, so no binding points at a port where nobody listens. What starts is bound by a later plan.
type Plan struct {
	Bindings   []firewall.Binding
	Allowances []policy.Allowance // what their proxies may connect to meanwhile
	End        []End
	Retire     []int // generations that a newer one has replaced
	Start      []*policy.Policy
	Next       time.Time // when to look again although nothing happened; zero: no need
}

// An End is the end of one generation.
type End struct {
	ID  int
	How Ending
	Why string
}

// An Ending is how abruptly a generation ends.
type Ending int

const (
	Gently Ending = iota // it is asked to
	Soon                 // killed when the requests under way are answered, in time to cut tunnels too
	Now                  // killed at once: an AppVM could still do through it what is no longer permitted
)

// Of returns the plan for all AppVMs: it visits the union of desired and actual ones, each for itself. Bindings and Allowances are
// sorted by address, so that equal ones are equal.
func Of(want []*Desired, have []*Actual, now time.Time, limits Limits) Plan {
	p := Plan{Bindings: make([]firewall.Binding, 0, len(want)), Allowances: make([]policy.Allowance, 0, len(want))}
	wanted := make(map[netip.Addr]*Desired, len(want))
	for _, d := range want {
		wanted[d.Addr] = d
	}
	for _, a := range have {
		p.appVM(wanted[a.Addr], a, now, limits)
		delete(wanted, a.Addr)
	}
	for _, d := range want {
		if wanted[d.Addr] != nil {
			p.appVM(d, &Actual{Addr: d.Addr}, now, limits)
		}
	}
	slices.SortFunc(p.Allowances, func(a, b policy.Allowance) int { return a.Addr.Compare(b.Addr) })
	return p
}

// Unwritten returns what ends although the bindings could not be written. boundFor returns the AppVM whose bindings still lead to a
// generation. New connections come to it, so it is killed at once if its rules permit too much. If they do not, and the AppVM stays, it goes
// on: its end would cut the AppVM off.
func (p Plan) Unwritten(boundFor func(id int) netip.Addr) (ends []End) {
	for _, e := range p.End {
		vm := boundFor(e.ID)
		if e.How == Gently && slices.ContainsFunc(p.Bindings, func(b firewall.Binding) bool { return b.Addr == vm }) {
			continue
		}
		if e.How == Soon {
			e.How = Now
		}
		ends = append(ends, e)
	}
	return ends
}

// Unfenced returns the plan for as long as the fence does not stand: nothing runs, and nothing leads anywhere.
func Unfenced(have []*Actual) Plan {
	return Plan{End: All(have, Now, "the fence around proxies does not stand")}
}

// All ends everything that runs.
func All(have []*Actual, how Ending, why string) []End {
	p := Plan{}
	for _, a := range have {
		for _, g := range a.Generations {
			p.end(g, how, why)
		}
	}
	return p.End
}

// ForOne returns the plan for one AppVM.
func ForOne(d *Desired, a *Actual, now time.Time, limits Limits) (p Plan) {
	p.appVM(d, a, now, limits)
	return p
}

// appVM plans for one AppVM.
func (p *Plan) appVM(d *Desired, a *Actual, now time.Time, limits Limits) {
	target := targetOf(d, a)
	if target == nil {
		for _, g := range a.Generations {
			how := Gently // the AppVM has left
			if d.Wanted() || d == nil || d.Held || g.Policy.Learns() {
				how = Now
			}
			p.end(g, how, "not wanted any more")
		}
		return
	}

	if d.Waits {
		return
	}

	serving := serving(a, target)
	if serving != nil && a.Failures[target.Key()].Err != nil && !target.PermitsAll(serving.Policy) {
		serving = nil // nobody knows when the target will start, so nothing serves rather than what was taken away
	}
	var old *policy.Policy
	if serving != nil {
		old = serving.Policy
	}
	p.Allowances = append(p.Allowances, policy.AllowanceOf(target, old))
	if serving != nil {
		for i, vif := range d.Vifs {
			p.Bindings = append(p.Bindings, firewall.Binding{
				Vif: vif, Link: d.Links[i], Addr: d.Addr, To: netip.AddrPortFrom(serving.Policy.Bind, serving.Port), Socket: serving.Socket,
				Shown: d.Shown,
			})
		}
	}
	coming := []*policy.Policy{target}
	if d.Policy != nil && d.Policy.Key() != target.Key() {
		coming = append(coming, d.Policy) // refused so far, and tried again now and then, as everything is; or it stands by during a lesson
	}
	for _, policy := range coming {
		if serving == nil || serving.Policy.Key() != policy.Key() {
			p.start(policy, a, now)
		}
	}
	p.retire(serving, coming, d, a, now, limits)
}

// targetOf returns the policy that should serve an AppVM; nil if none should.
func targetOf(d *Desired, a *Actual) *policy.Policy {
	if !d.Wanted() {
		return nil
	}
	if d.Learning != nil {
		return d.Learning
	}
	good := a.LastGood
	if good != nil {
		good = good.At(d.Bind, d.Places.Of(good))
	}
	if d.Policy == nil {
		return good
	}
	// tinyproxy itself is the judge of regular expressions. If it refuses the new ones, the last good policy serves on, and is
	// started again if its process dies.
	if good != nil && a.Failures[d.Policy.Key()].Bad {
		return good
	}
	return d.Policy
}

// serving returns the generation that the bindings should point at: the newest that runs the target, or until that is up, the newest
// of the same lesson, or else the newest that listens at all.
func serving(a *Actual, target *policy.Policy) *Generation {
	rank := func(g *Generation) int {
		switch {
		case g.Policy.Key() == target.Key():
			return 2
		case g.Policy.Lesson == target.Lesson:
			return 1
		}
		return 0
	}
	var best *Generation
	for i := range a.Generations {
		g := &a.Generations[i]
		if !g.Ready || g.Dying || g.LostPort || g.Policy.Bind != target.Bind || g.isLeftOf(target) {
			continue
		}
		if best == nil || rank(g) >= rank(best) {
			best = g
		}
	}
	return best
}

// isLeftOf reports whether a generation is of a lesson, and the target is not of the same one: nothing of a lesson outlives it.
func (g *Generation) isLeftOf(target *policy.Policy) bool {
	return g.Policy.Learns() && g.Policy.Lesson != target.Lesson
}

func (p *Plan) start(target *policy.Policy, a *Actual, now time.Time) {
	for _, g := range a.Generations {
		if g.Policy.Key() == target.Key() && !g.Dying && !g.LostPort {
			return // on its way, or it stands by
		}
	}
	if failure, ok := a.Failures[target.Key()]; ok && now.Before(failure.Retry) {
		p.lookAgain(failure.Retry)
		return
	}
	p.Start = append(p.Start, target)
}

// retire decides how all generations end, except the serving one and those that start what is coming.
func (p *Plan) retire(serving *Generation, coming []*policy.Policy, d *Desired, a *Actual, now time.Time, limits Limits) {
	var draining []Generation
	full := 0
	for i := len(a.Generations) - 1; i >= 0; i-- { // newest first: they may stay longest
		g := a.Generations[i]
		switch {
		case serving != nil && g.ID == serving.ID:
		case g.Dying: // it is none of those that drain
		case g.isLeftOf(coming[0]):
			p.end(g, Now, "its lesson is over")
		case !g.Ready:
			if !slices.ContainsFunc(coming, func(c *policy.Policy) bool { return c.Key() == g.Policy.Key() }) {
				p.end(g, Now, "its rules have changed again")
			}
		case g.LostPort:
			p.end(g, Now, "its port is not its own any more")
		case coming[0].Learns() && g.Policy.Key() == d.Policy.Key(): // it stands by, to serve when the lesson is over
		case serving == nil && g.Policy.Bind != coming[0].Bind:
			p.end(g, Now, "the gateway has changed")
		case serving == nil:
			p.end(g, Now, "its rules permitted what is not permitted any more, and the new ones do not start")
		case !serving.Policy.PermitsAll(g.Policy):
			p.end(g, Soon, "its rules permitted what is not permitted any more")
		case g.Idle:
			p.end(g, Gently, "its last connection has ended")
		case !g.Retired.IsZero() && !now.Before(g.Retired.Add(limits.Drain)):
			p.end(g, Gently, "its time to finish is over")
		case g.Full && full == limits.Full:
			p.end(g, Gently, "its clients hold all its connections, and so do those of newer processes")
		default:
			draining = append(draining, g)
			if g.Full {
				full++
			}
			if g.Retired.IsZero() {
				p.Retire = append(p.Retire, g.ID)
				p.lookAgain(now.Add(limits.Drain))
			} else {
				p.lookAgain(g.Retired.Add(limits.Drain))
			}
		}
	}
	if more := len(draining) - limits.Generations; more > 0 { // those with the fewest clients end, and of these the oldest
		slices.Reverse(draining)
		slices.SortStableFunc(draining, func(a, b Generation) int { return cmp.Compare(a.Clients, b.Clients) })
		for _, g := range draining[:more] {
			p.Retire = slices.DeleteFunc(p.Retire, func(id int) bool { return id == g.ID })
			p.end(g, Gently, "too many older processes")
		}
	}
}

// ReplaceOf returns the items of a full plan, in its order, with those of one AppVM replaced.
func ReplaceOf[T any](all, own []T, addr netip.Addr, of func(T) netip.Addr) []T {
	merged := make([]T, 0, len(all)+len(own))
	for i, x := range all {
		switch of(x).Compare(addr) {
		case -1:
			merged = append(merged, x)
		case 1:
			return slices.Concat(merged, own, all[i:])
		}
	}
	return append(merged, own...)
}

func (p *Plan) end(g Generation, how Ending, why string) {
	if !g.Dying {
		p.End = append(p.End, End{ID: g.ID, How: how, Why: why})
	}
}

func (p *Plan) lookAgain(at time.Time) {
	if p.Next.IsZero() || at.Before(p.Next) {
		p.Next = at
	}
}
