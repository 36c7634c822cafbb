package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/internal/backoff"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
)

// An appVM is what the loop remembers of one AppVM.
type appVM struct {
	addr       netip.Addr
	processes  []*process // oldest first
	good       plan.Good
	failures   backoff.Failures
	restarts   int
	taken      int       // ports in a row that another process had
	current    *process  // the one that the bindings point at
	publishing bool      // the files under its name are being written
	restarted  time.Time // when it was last found connected by other vifs than before
}

func (vm *appVM) actual() *plan.Actual {
	a := &plan.Actual{Addr: vm.addr, LastGood: vm.good.Policy(), Failures: vm.failures}
	for _, p := range vm.processes {
		a.Generations = append(a.Generations, p.Generation)
	}
	return a
}

// actual returns the AppVMs as package plan sees them.
func (l *loop) actual() []*plan.Actual {
	all := make([]*plan.Actual, 0, len(l.vms))
	for _, vm := range l.vms {
		all = append(all, vm.actual())
	}
	slices.SortFunc(all, func(a, b *plan.Actual) int { return a.Addr.Compare(b.Addr) })
	return all
}

// serves returns the process at a port, if the bindings point at it.
func (vm *appVM) serves(port uint16) *process {
	if vm == nil || vm.current == nil || vm.current.Port != port || vm.current.Dying || vm.current.LostPort {
		return nil
	}
	return vm.current
}

// served reports whether bindings lead to a process of an AppVM.
func (vm *appVM) served() bool { return vm != nil && vm.current != nil && vm.current.Ready }

// runs reports whether a process with a policy listens.
func (vm *appVM) runs(p *policy.Policy) bool {
	return slices.ContainsFunc(vm.processes, func(q *process) bool {
		return q.Ready && !q.Dying && !q.LostPort && q.Policy.Key() == p.Key()
	})
}

// newest returns the policy of the process that serves an AppVM, if that has started since the AppVM connected; nil otherwise.
func (vm *appVM) newest() *policy.Policy {
	if !vm.served() || !vm.current.startedAt.After(vm.restarted) {
		return nil
	}
	return vm.current.Policy
}

// named reports whether a process runs under an AppVM's name.
func (l *loop) named(name string) bool {
	for _, vm := range l.vms {
		if slices.ContainsFunc(vm.processes, func(p *process) bool { return p.Policy.Name == name }) {
			return true
		}
	}
	return false
}

// atRest reports whether no process is starting or ending.
func (l *loop) atRest() bool {
	for _, vm := range l.vms {
		if vm.beingPublished() || slices.ContainsFunc(vm.processes, func(p *process) bool { return !p.rests() }) {
			return false
		}
	}
	return true
}

// starting counts the processes that do not listen yet.
func (l *loop) starting() (n int) {
	for _, vm := range l.vms {
		for _, p := range vm.processes {
			if !p.Ready {
				n++
			}
		}
	}
	return n
}

// prune forgets what belongs to AppVMs that are gone, failures of policies that are no longer wanted, and good rules of before
// that must not come back.
func (l *loop) prune() {
	want := make(map[netip.Addr]*plan.Desired, len(l.want))
	for _, d := range l.want {
		want[d.Addr] = d
	}
	l.inputs.Prune(want) // first, because the last good policies are cut to what is still allowed
	for addr, vm := range l.vms {
		d := want[addr]
		vm.good.Follow(l.inputs, d, vm.failures, vm.runs, vm.newest())
		vm.good.Prune(d, vm.failures)
		if !d.Connected() && len(vm.processes) == 0 {
			delete(l.vms, addr)
		}
	}
	l.Events.Forget(func(vm netip.Addr) bool { return want[vm] == nil })
	for _, d := range l.want {
		if l.inputs.Stops.Found(d.Name, d.Addr) {
			l.keep()
		}
	}
}
