package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
)

// apply does what the plan says, in an order that keeps every binding on a living port of its own proxy: first the bindings, in one
// transaction with the fence, then the ends. Nothing leads to a process that starts, so starts go on meanwhile; but only if the fence
// is known to stand.
//
// If the firewall cannot be written, processes that must not serve any more are ended all the same: a binding to a port where nobody
// listens is closed, but a process with revoked rules is open. Their ports stay taken until a write succeeds, so that nobody else is
// given them.
func (l *loop) apply(p plan.Plan, now time.Time) {
	known := l.holds != nil
	if known {
		l.startAll(p.Start, now)
	}
	inForce := l.bind(p, now)
	if l.guard.unfenced != nil {
		return // all has been ended
	}
	if !known {
		l.startAll(p.Start, now)
	}
	if !inForce {
		p.End = p.Unwritten(l.boundFor)
	}
	l.end(p.End)
}

// boundFor returns the AppVM whose bindings lead to a generation; none if they do not.
func (l *loop) boundFor(id int) (vm netip.Addr) {
	if q := l.process(id); q != nil && q.vm.current == q {
		vm = q.vm.addr
	}
	return vm
}

// bind makes the firewall hold what the plan says, and reports whether that is in force.
func (l *loop) bind(p plan.Plan, now time.Time) bool {
	l.allowances, l.fenced = p.Allowances, l.fence(slices.Concat(p.Allowances, l.trials.Allowances()), now)
	bindings := l.trials.Bindings(p.Bindings)
	if !l.sync(firewall.State{Bindings: bindings, Guarded: l.ports.AllInUse(), Fence: l.fenced, Askers: l.askers(p.Allowances)}, now) {
		return false
	}
	l.Names.InForce()
	l.recordBindings(p, now)
	l.trials.Bound(bindings)
	return true
}

func (l *loop) startAll(policies []*policy.Policy, now time.Time) {
	if l.life.Err() != nil { // then a check may have been cut short, and nobody knows whether the fence stands
		return
	}
	for _, policy := range policies {
		l.start(policy, now)
	}
}

func (l *loop) end(ends []plan.End) {
	for _, end := range ends {
		if q := l.process(end.ID); q != nil {
			why := end.Why
			if q.proxy == nil { // otherwise the event waits until it is known how many connections that cuts
				l.Events.Emit(events.ProxyEnds, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, Why: why})
				why = ""
			}
			q.end(end.How, why)
		}
	}
}

// recordBindings follows a write: the bindings are now those of the plan.
func (l *loop) recordBindings(p plan.Plan, now time.Time) {
	serves := make(map[uint16]bool, len(p.Bindings))
	for _, b := range p.Bindings {
		serves[b.To.Port()] = true
	}
	for _, vm := range l.vms {
		before := vm.current
		vm.current = nil
		for _, q := range vm.processes {
			if serves[q.Port] {
				vm.current = q
			}
		}
		if vm.current == nil || vm.current == before && vm.current.published {
			continue
		}
		if !vm.current.Retired.IsZero() { // the rules are what they were when it started
			vm.current.askedAt = l.heardAt
		}
		vm.current.Retired, vm.current.Idle = time.Time{}, false
		vm.current.published = false
		l.publish(vm)
		if before != nil && before.Policy.Key() != vm.current.Policy.Key() {
			l.Events.Emit(events.InForce, events.About{
				VM: vm.current.Policy.Name, IP: vm.addr, Port: vm.current.Port, PID: vm.current.pid(),
				MS: events.CeilMS(time.Since(vm.current.askedAt)),
			})
		}
	}
	for _, id := range p.Retire {
		q := l.process(id)
		q.Retired = now
		l.agenda.At(agenda.Retired, now.Add(retiredInterval))
		l.Events.Emit(events.ProxyRetires, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, PID: q.pid()})
	}
}

// release frees ports after a successful write of these bindings, since nothing else in the firewall leads to a proxy's port.
func (l *loop) release(bindings []firewall.Binding) {
	if !l.cleaned { // an earlier run may have crashed
		l.cleaned = true
		forget, emitter := l.Connections.ForgetAll, l.Events
		l.running.Go(func() { forgetOrphans(forget, emitter, bindings) })
	}
	l.freed = slices.DeleteFunc(l.freed, func(port uint16) bool {
		if slices.ContainsFunc(bindings, func(b firewall.Binding) bool { return b.To.Port() == port }) {
			return false // its process has ended since the write began
		}
		l.ports.Release(port)
		return true
	})
}

// forgetOrphans forgets connections of an earlier run. It takes as long as there are any, so another goroutine calls it.
func forgetOrphans(forget func([]firewall.Binding) (int, error), emitter *events.Emitter, bindings []firewall.Binding) {
	n, err := forget(bindings)
	emitter.Log.Debug("connections of an earlier run forgotten", "count", n)
	if err != nil {
		emitter.Emit(events.StillTracked, events.About{Err: err.Error()})
	}
}
