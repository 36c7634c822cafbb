package supervisor

import (
	"maps"
	"time"

	"vifproxy/control"
	"vifproxy/internal/news"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
)

// A stateSince is the condition of an AppVM: since when, when it was last connected, and when all that was noted.
type stateSince struct {
	news.Condition
	since, seen, noted time.Time
}

// noteStates notes since when each AppVM is in its state.
func (l *loop) noteStates(now time.Time) {
	for _, d := range l.want {
		who := d.Identity()
		is := l.states[who]
		was := is.State
		if is.Condition = l.conditionOf(d, l.vms[d.Addr]); is.State != was {
			is.since = now
		}
		if d.StoppedBy != "" {
			is.since = d.Since // maybe in an earlier life of the daemon
		}
		if d.Connected() {
			is.seen = now
		}
		is.noted = now
		l.states[who] = is
	}
	maps.DeleteFunc(l.states, func(_ plan.Identity, is stateSince) bool { return is.noted != now }) // their rule files are gone
}

// conditionOf returns how the AppVM of a rule file is.
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
	l.noteStates(now)
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
		row := control.VM{
			Name: d.Name, Interfaces: append([]string{}, d.Vifs...),
			State: is.State, Since: is.since, Seen: is.seen, Error: is.Problem, StoppedBy: d.StoppedBy,
			Path: d.Path, Origin: string(d.Origin),
		}
		if d.Addr.IsValid() { // a refused file may have none
			row.IP, row.Sighting = d.Addr.String(), l.Sightings.Of(d.Name, d.Addr)
		}
		if d.Policy != nil {
			row.AnyAddress = d.Policy.AnyAddress
		}
		if d.Policy != nil && len(d.Policy.Findings) > 0 {
			row.Doubt, row.Doubts = d.Policy.Findings[0], len(d.Policy.Findings)
		}
		if d.Connected() {
			row.Gateway = d.Gateway().String()
		}
		if d.Addr.Is4() { // not one that no AppVM has
			row.EgressRefused = l.refused[l.Users.UID(d.Addr)]
		}
		vm := l.vms[d.Addr]
		if vm != nil {
			row.Restarts = vm.restarts
		}
		if row.State == control.Running {
			row.PID, row.Port = vm.current.pid(), int(vm.current.Port)
			row.Confinement, row.Switchboard = &l.Confined, &l.Setup.Switchboard
			row.List = listOf(vm.current.Policy)
		} else if d.Policy != nil {
			row.List = listOf(d.Policy)
		}
		status.VMs = append(status.VMs, row)
	}
	return status
}

// listOf returns what the rule file is to tinyproxy, in the words of package control.
func listOf(p *policy.Policy) string {
	if p.Config.Filter.DefaultDeny {
		return control.White
	}
	return control.Black
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
	l.noteStates(now)
	var all []news.Condition
	for _, d := range l.want {
		all = append(all, l.states[d.Identity()].Condition)
	}
	return news.Summary(l.want, all, l.problems())
}
