package supervisor

import (
	"net/netip"
	"runtime"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

// What takes longest when an AppVM comes is tinyproxy's start, and what grows with the AppVMs is a round of the loop. So
// where an event points there is one look at that AppVM alone, its process starts, and is bound when it listens, as a plan
// for it alone says. The plan for all follows a little later. It finds nothing to do, as a rule, and is not in the way of
// the start, and of the AppVM's first connection, meanwhile.

// heed follows hints, and tells whether they are not enough to know who is connected now, so that all have to be read.
func (s *Supervisor) heed(hints []netwatch.Hint, now time.Time) (stale bool) {
	for _, h := range hints {
		found, err := s.LookAtLinks(h)
		after, ok := s.inputs.Links.After(h, found)
		if err != nil || !ok { // an error is for the reading of all to report
			return true
		}
		if len(after) == len(s.inputs.Links) {
			continue
		}
		s.inputs.Links = after
		for _, link := range found {
			if !s.early(link, now) {
				s.due.plan = now
			}
		}
	}
	return false
}

// bindEarly binds the processes that have come up just now.
func (s *Supervisor) bindEarly(now time.Time) {
	for _, addr := range s.up {
		link, _ := s.inputs.Links.Find(addr)
		if !s.early(link, now) {
			s.changed = true
		}
	}
	s.up = nil
}

// early does for one AppVM, connected as given, what reconcile does for all, if it has no proxy yet: it starts its first
// process, or binds it, and lets the plan for all wait a little. It tells whether that may wait.
func (s *Supervisor) early(link netwatch.AppVM, now time.Time) bool {
	set := s.inputs.Rules
	i := slices.IndexFunc(set.Files, func(f rules.File) bool { return f.Addr == link.Addr })
	at := slices.IndexFunc(s.want, func(d *Desired) bool { return d.Addr == link.Addr })
	if i < 0 || at < 0 || slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == link.Addr }) {
		return false
	}
	have := &Actual{Addr: link.Addr}
	if vm := s.vms[link.Addr]; vm != nil {
		have = vm.actual()
	}
	d := s.inputs.desiredOf(set.Files[i], link, s.cache)
	var p Plan
	p.appVM(d, have, now, s.Limits)
	if s.vms[link.Addr].served() || len(p.End)+len(p.Retire) > 0 || len(p.Start)+len(p.Bindings) == 0 {
		return false
	}
	s.heard = now
	if s.startAll(p.Start, now); len(p.Start) > 0 {
		runtime.Gosched() // this thread goes on with the start, the loop on another
	}
	s.tell(s.want[at], d)
	s.want[at] = d
	if s.starting() < massStart {
		if s.holds == nil {
			return false
		}
		p.Bindings = with(s.holds.Bindings, p.Bindings, link.Addr, func(b firewall.Binding) netip.Addr { return b.Addr })
		p.Exits = with(s.exits, p.Exits, link.Addr, func(e Exit) netip.Addr { return e.Addr })
		if !s.bind(p, now) {
			return false
		}
	}
	if soon := now.Add(gather); s.due.plan.IsZero() || soon.Before(s.due.plan) {
		s.due.plan = soon
	}
	return true
}

// with is what a plan for all has, in its order, with those of one AppVM replaced.
func with[T any](all, own []T, addr netip.Addr, of func(T) netip.Addr) []T {
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
