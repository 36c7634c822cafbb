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
// the start, and of the AppVM's first connection, meanwhile. Where there is more to do than that, it is what does it: one
// write of the firewall for all of it, and nothing that ends waits for what begins.

// heed follows hints, and tells whether they are not enough to know who is connected now, so that all have to be read.
func (s *Supervisor) heed(hints []netwatch.Hint, now time.Time) (stale bool) {
	var plans []Plan
	changed := 0
	for _, h := range hints {
		found, err := s.LookAtLinks(h)
		after, ok := s.inputs.Links.After(h, found)
		if stale = err != nil || !ok; stale { // an error is for the reading of all to report
			break
		}
		if len(after) == len(s.inputs.Links) {
			continue
		}
		s.inputs.Links = after
		for _, link := range found {
			changed++
			if p := s.startAlone(link, now); len(p.Start) > 0 {
				plans = append(plans, p)
			}
		}
	}
	switch {
	case changed == 0:
	case stale, len(plans) < changed:
		s.agenda.at(duePlan, now) // also if the reading of all finds nothing new: it is known by now
	case s.starting() >= massStart:
		s.agenda.by(duePlan, now.Add(gather))
	case changed == 1:
		s.bindAlone(plans[0], now)
	default:
		s.agenda.at(duePlan, now)
	}
	return stale
}

// welcome binds the process that has come up just now.
func (s *Supervisor) welcome(now time.Time) {
	up := s.up
	s.up = nil
	if len(up) == 0 {
		return
	}
	link, _ := s.inputs.Links.Find(up[0])
	if len(up) == 1 && s.starting() < massStart {
		if p := s.startAlone(link, now); len(p.Bindings) > 0 {
			s.bindAlone(p, now)
			return
		}
	}
	s.changed = true
}

// startAlone starts what a plan for one AppVM says, connected as given, if it has no proxy yet. What else it says is
// returned; nothing, if the plan for all is to decide.
func (s *Supervisor) startAlone(link netwatch.AppVM, now time.Time) (p Plan) {
	if s.guard.unfenced != nil {
		return Plan{}
	}
	set := s.inputs.Rules
	i := slices.IndexFunc(set.Files, func(f rules.File) bool { return f.Addr == link.Addr })
	at := slices.IndexFunc(s.want, func(d *Desired) bool { return d.Addr == link.Addr })
	if i < 0 || at < 0 || slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == link.Addr }) {
		return Plan{}
	}
	if s.isNew(link.Addr) && s.stale(now, link.Addr) {
		return Plan{}
	}
	have := &Actual{Addr: link.Addr}
	if vm := s.vms[link.Addr]; vm != nil {
		have = vm.actual()
	}
	s.readBinary(now)
	d := s.inputs.desiredOf(set.Files[i], link, s.cache)
	p.appVM(d, have, now, s.Limits)
	if s.vms[link.Addr].served() || len(p.End)+len(p.Retire) > 0 {
		return Plan{}
	}
	s.heard = now
	if s.startAll(p.Start, now); len(p.Start) > 0 {
		runtime.Gosched() // this thread goes on with the start, the loop on another
	}
	s.tell(s.want[at], d)
	s.want[at] = d
	return p
}

// bindAlone has the firewall hold what the plan for one AppVM says besides what it holds, and the plan for all wait a
// little. If something else is due, that plan does it all.
func (s *Supervisor) bindAlone(p Plan, now time.Time) {
	if s.checking() {
		if len(p.Bindings) == 0 { // what starts needs nothing of the firewall until it is bound
			s.agenda.by(duePlan, now.Add(gather))
			return
		}
		s.completeWrite(now)
	}
	more := s.agenda.isDue(now, dueLinks, dueRules, dueCheck, duePlan, dueExpiry, dueResolvers) || s.agenda.has(dueNews)
	if more || s.changed || s.holds == nil {
		s.changed = true
		return
	}
	addr := p.Exits[0].Addr
	p.Bindings = with(s.holds.Bindings, p.Bindings, addr, func(b firewall.Binding) netip.Addr { return b.Addr })
	p.Exits = with(s.exits, p.Exits, addr, func(e Exit) netip.Addr { return e.Addr })
	if s.bind(p, now) { // else it comes with the next try
		s.agenda.by(duePlan, now.Add(gather))
	}
}

// An AppVM that comes is served by the rules of now or not at all: it has no last good ones, and those that were read
// before may be what somebody is changing at this moment.

// isNew reports whether nothing has served an AppVM since it connected.
func (s *Supervisor) isNew(addr netip.Addr) bool {
	vm := s.vms[addr]
	return vm == nil || vm.good == nil
}

// haveNewcomersWait has AppVMs that are new wait if rules are about to be read.
func (s *Supervisor) haveNewcomersWait(now time.Time) {
	var newcomers []*Desired
	var addrs []netip.Addr
	for _, d := range s.want {
		if d.wanted() && s.isNew(d.Addr) {
			newcomers, addrs = append(newcomers, d), append(addrs, d.Addr)
		}
	}
	if len(newcomers) > 0 && s.stale(now, addrs...) {
		for _, d := range newcomers {
			d.Waits = true
		}
	}
}

// forgetPast takes the last good policy from AppVMs that have come again on other vifs: they were restarted so fast that
// the loop has not seen them gone.
func (s *Supervisor) forgetPast(before []*Desired) {
	was := make(map[netip.Addr][]string, len(before))
	for _, d := range before {
		was[d.Addr] = d.Vifs
	}
	for _, d := range s.want {
		stays := slices.ContainsFunc(d.Vifs, func(vif string) bool { return slices.Contains(was[d.Addr], vif) })
		if vm := s.vms[d.Addr]; vm != nil && len(was[d.Addr]) > 0 && !stays {
			vm.good = nil
		}
	}
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
