package supervisor

import (
	"net/netip"
	"runtime"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/news"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

// Starting tinyproxy takes longest when an AppVM connects, and a full round of the loop grows with the number of AppVMs. So when an
// event names a link, the loop looks at that AppVM alone, starts its proxy, and binds it as soon as it listens. The full plan runs a
// little later, and usually finds nothing left to do. If there is more to do than that, the full plan does all of it with one write
// of the firewall, and nothing that ends waits for a start.

const (
	bulkStart     = 8                     // if so many proxies are starting, none is served alone any more
	fullPlanDelay = 20 * time.Millisecond // how long a full plan that is not urgent waits for more news
	// lonePlanDelay is the same if nothing is left to do: it would be in the way of an AppVM that has come, whose start takes some 10 ms.
	lonePlanDelay = 100 * time.Millisecond
)

// followHints looks where hints point. It reports whether all links have to be read to know who is connected now.
func (l *loop) followHints(hints []netwatch.Hint, now time.Time) (stale bool) {
	var plans []plan.Plan
	changed := 0
	for _, h := range hints {
		found, err := l.Read.LinksAt(h)
		after, ok := l.inputs.Links.After(h, found)
		if stale = err != nil || !ok; stale { // the reading of all reports an error
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
		l.agenda.At(agenda.Plan, now) // even if the reading of all finds nothing new: this is known already
	case l.starting() >= bulkStart:
		l.agenda.By(agenda.Plan, now.Add(fullPlanDelay))
	case changed == 1:
		l.bindOne(plans[0], now)
	default:
		l.agenda.At(agenda.Plan, now)
	}
	return stale
}

// bindNew binds the process that has just come up.
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

// startOne plans for one AppVM, connected as given, and starts its process if it has none yet. It returns the plan; an empty one
// if the full plan has to decide.
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
	if l.isNew(link.Addr) && (set.Unknown != nil || l.stale(now, link.Addr)) {
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
	l.heardAt = now
	if l.startAll(p.Start, now); len(p.Start) > 0 {
		runtime.Gosched() // this thread goes on with the start, the loop on another
	}
	news.EmitChange(l.Events, l.Sightings, l.want[at], d)
	l.want[at] = d
	return p
}

// bindOne adds the bindings of a plan for one AppVM to what the firewall holds, and puts the full plan off a little. If something
// else is due, it leaves all of it to the full plan.
func (l *loop) bindOne(p plan.Plan, now time.Time) {
	if l.checking() {
		if len(p.Bindings) == 0 { // a process that starts needs nothing of the firewall until it is bound
			l.agenda.By(agenda.Plan, now.Add(lonePlanDelay))
			return
		}
		l.completeWrite(now)
	}
	more := l.agenda.IsDue(now, agenda.Links, agenda.Rules, agenda.Check, agenda.Plan, agenda.Expiry, agenda.Resolvers) || l.agenda.Has(agenda.News)
	if more || l.changed || l.holds == nil {
		l.changed = true
		return
	}
	addr := p.Allowances[0].Addr
	p.Bindings = plan.ReplaceOf(l.holds.Bindings, p.Bindings, addr, func(b firewall.Binding) netip.Addr { return b.Addr })
	p.Allowances = plan.ReplaceOf(l.allowances, p.Allowances, addr, func(e policy.Allowance) netip.Addr { return e.Addr })
	if l.bind(p, now) { // else it comes with the next try
		l.agenda.By(agenda.Plan, now.Add(lonePlanDelay))
	}
}

// An AppVM that has just connected is served by the current rules or not at all. It has no last good rules, and somebody may be
// changing those that were read before.

// isNew reports whether nothing has served an AppVM since it connected.
func (l *loop) isNew(addr netip.Addr) bool {
	vm := l.vms[addr]
	return vm == nil || vm.good.Policy() == nil
}

// holdNewcomers makes new AppVMs wait if rules are about to be read.
func (l *loop) holdNewcomers(now time.Time) {
	var newcomers []*plan.Desired
	var addrs []netip.Addr
	for _, d := range l.want {
		if d.Wanted() && l.isNew(d.Addr) {
			newcomers, addrs = append(newcomers, d), append(addrs, d.Addr)
		}
	}
	if len(newcomers) > 0 && (l.inputs.Rules.Unknown != nil || l.stale(now, addrs...)) {
		for _, d := range newcomers {
			d.Waits = true
		}
	}
}

// forgetRestarted forgets the good rules of AppVMs that have restarted.
func (l *loop) forgetRestarted(before []*plan.Desired) {
	for _, addr := range plan.Restarted(before, l.want) {
		if vm := l.vms[addr]; vm != nil {
			vm.good.Forget()
			vm.restarted = l.plannedAt
		}
	}
}
