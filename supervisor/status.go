package supervisor

import (
	"time"

	"vifproxy/control"
	"vifproxy/internal/news"
	"vifproxy/internal/plan"
)

// condition returns how the AppVM of a rule file is.
func (l *loop) condition(d *plan.Desired) news.Condition { return l.conditionOf(d, l.vms[d.Addr]) }

// conditionOf does the same for an AppVM that has what vm says.
func (l *loop) conditionOf(d *plan.Desired, vm *appVM) news.Condition {
	has := news.Has{Unfenced: l.guard.unfenced, Firewall: l.troubles["firewall"].Err}
	if vm != nil {
		has.Served = vm.served()
		if d.Policy != nil {
			has.Failure = vm.failures[d.Policy.Key()]
		}
		for _, p := range vm.processes {
			has.Starting = has.Starting || !p.Ready && !p.Dying
		}
	}
	return news.ConditionOf(d, has)
}

// statusNow returns what `show` prints. It has the packets that the fence had refused when they were last counted.
func (l *loop) statusNow(now time.Time) control.Status {
	l.states.Note(l.want, l.condition, now)
	status := control.Status{Setup: l.Setup, Backend: l.Firewall.String(), Problems: l.problems(), VMs: []control.VM{},
		Barred: l.barredNow()}
	status.Setup.Names.Servers = []string{}
	for _, addr := range l.inputs.Resolvers.Open(now) {
		status.Setup.Names.Servers = append(status.Setup.Names.Servers, addr.String())
	}
	for _, d := range l.want {
		is := l.states[d.Identity()]
		if !d.Addr.IsValid() { // another file of that name may have no address either
			is.Condition = l.conditionOf(d, nil)
		}
		row := news.Row(d, is, l.Sightings)
		if d.Addr.Is4() { // not one that no AppVM has
			row.EgressRefused = l.refused[l.Users.UID(d.Addr)]
		}
		if lesson := l.inputs.Lessons.Of(d.Identity()); lesson != nil {
			row.Learning = now.Add(lesson.Until - l.Clock.Now())
		}
		vm := l.vms[d.Addr]
		if vm != nil {
			row.Restarts = vm.restarts
		}
		if row.State == control.Running {
			row.PID, row.Port = vm.current.pid(), int(vm.current.Port)
			row.Confinement, row.Switchboard = &l.Setup.Confinement, &l.Setup.Switchboard
			row.List = news.ListOf(vm.current.Policy)
		}
		status.VMs = append(status.VMs, row)
	}
	return status
}

// problems returns those that are not one AppVM's.
func (l *loop) problems() []string {
	all := l.troubles.Lines()
	if l.forward != nil && l.forward.Unread != "" {
		all = append(all, l.forward.Unread)
	}
	for _, refused := range l.inputs.Rules.Refused {
		if refused.Name == "" {
			all = append(all, refused.Err.Error())
		}
	}
	return all
}

// summarize returns the one line that `systemctl status` shows.
func (l *loop) summarize(now time.Time) string {
	l.states.Note(l.want, l.condition, now)
	var all []news.Condition
	for _, d := range l.want {
		all = append(all, l.states[d.Identity()].Condition)
	}
	return news.Summary(l.want, all, l.problems())
}
