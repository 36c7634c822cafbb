package supervisor

import (
	"net/netip"
	"runtime"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

const (
	bulkStart     = 8                     // proxies that are starting: none is served alone any more
	fullPlanDelay = 20 * time.Millisecond // how long a plan for all waits for more news, while it is not urgent
)

// What takes longest when an AppVM comes is tinyproxy's start, and what grows with the AppVMs is a round of the loop. So
// where an event points there is one look at that AppVM alone, its process starts, and is bound when it listens, as a plan
// for it alone says. The plan for all follows a little later. It finds nothing to do, as a rule, and is not in the way of
// the start, and of the AppVM's first connection, meanwhile. Where there is more to do than that, it is what does it: one
// write of the firewall for all of it, and nothing that ends waits for what begins.

// heed follows hints, and tells whether they are not enough to know who is connected now, so that all have to be read.
func (l *loop) followHints(hints []netwatch.Hint, now time.Time) (stale bool) {
	var plans []plan.Plan
	changed := 0
	for _, h := range hints {
		found, err := l.LookAtLinks(h)
		after, ok := l.inputs.Links.After(h, found)
		if stale = err != nil || !ok; stale { // an error is for the reading of all to report
			break
		}
		if len(after) == len(l.inputs.Links) {
			continue
		}
		l.inputs.Links = after
		for _, link := range found {
			changed++
			if p := l.startOne(link, now); len(p.Start) > 0 {
				plans = append(plans, p)
			}
		}
	}
	switch {
	case changed == 0:
	case stale, len(plans) < changed:
		l.agenda.at(duePlan, now) // also if the reading of all finds nothing new: it is known by now
	case l.starting() >= bulkStart:
		l.agenda.by(duePlan, now.Add(fullPlanDelay))
	case changed == 1:
		l.bindOne(plans[0], now)
	default:
		l.agenda.at(duePlan, now)
	}
	return stale
}

// welcome binds the process that has come up just now.
func (l *loop) bindNew(now time.Time) {
	up := l.justUp
	l.justUp = nil
	if len(up) == 0 {
		return
	}
	link, _ := l.inputs.Links.Find(up[0])
	if len(up) == 1 && l.starting() < bulkStart {
		if p := l.startOne(link, now); len(p.Bindings) > 0 {
			l.bindOne(p, now)
			return
		}
	}
	l.changed = true
}

// startOne starts what a plan for one AppVM says, connected as given, if it has no proxy yet. What else it says is
// returned; nothing, if the plan for all is to decide.
func (l *loop) startOne(link netwatch.AppVM, now time.Time) (p plan.Plan) {
	if l.guard.unfenced != nil {
		return plan.Plan{}
	}
	set := l.inputs.Rules
	i := slices.IndexFunc(set.Files, func(f rules.File) bool { return f.Addr == link.Addr })
	at := slices.IndexFunc(l.want, func(d *plan.Desired) bool { return d.Addr == link.Addr })
	if i < 0 || at < 0 || slices.ContainsFunc(set.Refused, func(r rules.Refused) bool { return r.Addr == link.Addr }) {
		return plan.Plan{}
	}
	if l.isNew(link.Addr) && l.stale(now, link.Addr) {
		return plan.Plan{}
	}
	have := &plan.Actual{Addr: link.Addr}
	if vm := l.vms[link.Addr]; vm != nil {
		have = vm.actual()
	}
	l.readBinary(now)
	d := l.inputs.DesiredOf(set.Files[i], link, l.cache)
	p = plan.ForOne(d, have, now, l.Limits)
	if l.vms[link.Addr].served() || len(p.End)+len(p.Retire) > 0 {
		return plan.Plan{}
	}
	l.heard = now
	if l.startAll(p.Start, now); len(p.Start) > 0 {
		runtime.Gosched() // this thread goes on with the start, the loop on another
	}
	l.emitChange(l.want[at], d)
	l.want[at] = d
	return p
}

// bindOne has the firewall hold what the plan for one AppVM says besides what it holds, and the plan for all wait a
// little. If something else is due, that plan does it all.
func (l *loop) bindOne(p plan.Plan, now time.Time) {
	if l.checking() {
		if len(p.Bindings) == 0 { // what starts needs nothing of the firewall until it is bound
			l.agenda.by(duePlan, now.Add(fullPlanDelay))
			return
		}
		l.completeWrite(now)
	}
	more := l.agenda.isDue(now, dueLinks, dueRules, dueCheck, duePlan, dueExpiry, dueResolvers) || l.agenda.has(dueNews)
	if more || l.changed || l.holds == nil {
		l.changed = true
		return
	}
	addr := p.Allowances[0].Addr
	p.Bindings = replaceOf(l.holds.Bindings, p.Bindings, addr, func(b firewall.Binding) netip.Addr { return b.Addr })
	p.Allowances = replaceOf(l.allowances, p.Allowances, addr, func(e policy.Allowance) netip.Addr { return e.Addr })
	if l.bind(p, now) { // else it comes with the next try
		l.agenda.by(duePlan, now.Add(fullPlanDelay))
	}
}

// An AppVM that comes is served by the rules of now or not at all: it has no last good ones, and those that were read
// before may be what somebody is changing at this moment.

// isNew reports whether nothing has served an AppVM since it connected.
func (l *loop) isNew(addr netip.Addr) bool {
	vm := l.vms[addr]
	return vm == nil || vm.lastGood == nil
}

// haveNewcomersWait has AppVMs that are new wait if rules are about to be read.
func (l *loop) haveNewcomersWait(now time.Time) {
	var newcomers []*plan.Desired
	var addrs []netip.Addr
	for _, d := range l.want {
		if d.Wanted() && l.isNew(d.Addr) {
			newcomers, addrs = append(newcomers, d), append(addrs, d.Addr)
		}
	}
	if len(newcomers) > 0 && l.stale(now, addrs...) {
		for _, d := range newcomers {
			d.Waits = true
		}
	}
}

// forgetPast takes the last good policy from AppVMs that have come again on other vifs: they were restarted so fast that
// the loop has not seen them gone.
func (l *loop) forgetPast(before []*plan.Desired) {
	was := make(map[netip.Addr][]string, len(before))
	for _, d := range before {
		was[d.Addr] = d.Vifs
	}
	for _, d := range l.want {
		stays := slices.ContainsFunc(d.Vifs, func(vif string) bool { return slices.Contains(was[d.Addr], vif) })
		if vm := l.vms[d.Addr]; vm != nil && len(was[d.Addr]) > 0 && !stays {
			vm.lastGood = nil
		}
	}
}

// replaceOf returns what a plan for all has, in its order, with those of one AppVM replaced.
func replaceOf[T any](all, own []T, addr netip.Addr, of func(T) netip.Addr) []T {
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
