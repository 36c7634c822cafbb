package supervisor

import (
	"runtime"
	"slices"
	"time"

	"vifproxy/netwatch"
	"vifproxy/rules"
)

// What takes longest when an AppVM comes is tinyproxy's start, and what grows with the AppVMs is a round of the loop. So
// where an event points there is one look at that AppVM alone, and its process starts before anything is planned. The plan
// that follows decides about all of it as if nothing had been done; nobody can connect to the process before.

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
		s.inputs.Links, s.due.plan = after, now
		for _, vm := range found {
			s.startEarly(vm, now)
		}
	}
	return false
}

// startEarly starts what a plan for this AppVM alone would start.
func (s *Supervisor) startEarly(link netwatch.AppVM, now time.Time) {
	set := s.inputs.Rules
	i := slices.IndexFunc(set.Files, func(f rules.File) bool { return f.Addr == link.Addr })
	if i < 0 || slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == link.Addr }) {
		return
	}
	have := &Actual{Addr: link.Addr}
	if vm := s.vms[link.Addr]; vm != nil {
		have = vm.actual()
	}
	var p Plan
	p.appVM(s.inputs.desiredOf(set.Files[i], link, s.cache), have, now, s.Limits)
	s.heard = now
	if s.startAll(p.Start, now); len(p.Start) > 0 {
		runtime.Gosched() // this thread goes on with the start, the loop on another
	}
}
