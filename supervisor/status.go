package supervisor

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/backoff"
	"vifproxy/internal/plan"
	"vifproxy/internal/terminal"
)

// stateSince is how an AppVM is, since when, when it was last connected, and when all that was noted.
type stateSince struct {
	condition
	since, seen, noted time.Time
}

// noteStates keeps since when each AppVM is in its state.
func (l *loop) noteStates(now time.Time) {
	for _, d := range l.want {
		who := d.Identity()
		is := l.states[who]
		was := is.state
		if is.condition = l.conditionOf(d, l.vms[d.Addr]); is.state != was {
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
	maps.DeleteFunc(l.states, func(_ plan.Identity, is stateSince) bool { return is.noted != now }) // their rule files have gone
}

// condition is how an AppVM is.
type condition struct {
	state   string // one of control.States
	problem string // what is wrong, also while it is served
}

func (l *loop) conditionOf(d *plan.Desired, vm *appVM) (c condition) {
	var failure backoff.Failure
	starting := false
	if vm != nil {
		if d.Policy != nil {
			failure = vm.failures[d.Policy.Key()]
		}
		for _, p := range vm.processes {
			starting = starting || !p.Ready && !p.Dying
		}
	}
	switch {
	case d.Wanted() && l.guard.unfenced != nil:
		c.problem = "firewall: " + l.guard.unfenced.Error()
	case d.Err != nil:
		c.problem = d.Err.Error()
	case failure.Err != nil:
		c.problem = failure.Err.Error()
	}
	switch {
	case d.Held:
		c.state = control.Stopped
	case len(d.Vifs) == 0 && d.Err == nil:
		c.state = control.Waiting
	case d.Wanted() && l.guard.unfenced != nil:
		c.state = control.Failed
	case vm.served():
		c.state = control.Running
	case d.Err != nil || failure.Bad:
		c.state = control.Refused
	case failure.Err != nil && !starting:
		c.state = control.Failed
	case l.troubles["firewall"].Err != nil:
		c.state = control.Failed
		c.problem = "firewall: " + l.troubles["firewall"].Err.Error()
	default:
		c.state = control.Starting
	}
	return c
}

// statusNow is what `show` prints, with the packets that the fence had refused when they were last counted.
func (l *loop) statusNow(now time.Time) control.Status {
	l.noteStates(now)
	status := control.Status{Setup: l.Setup, Backend: l.Firewall.String(), Problems: l.problems(), VMs: []control.VM{},
		Barred: l.barredNow()}
	for _, d := range l.want {
		is := l.states[d.Identity()]
		if !d.Addr.IsValid() { // another file of that name may have no address either
			is.condition = l.conditionOf(d, nil)
		}
		row := control.VM{
			Name: d.Name, IP: addressText(d.Addr), Interfaces: append([]string{}, d.Vifs...),
			State: is.state, Since: is.since, Seen: is.seen, Error: is.problem, StoppedBy: d.StoppedBy,
		}
		if d.Policy != nil && len(d.Policy.Findings) > 0 {
			row.Doubt, row.Doubts = d.Policy.Findings[0], len(d.Policy.Findings)
		}
		if d.Connected() {
			row.Gateway = d.Bind.String()
		}
		if d.Addr.Is4() { // a refused file may have none, or one that no AppVM has
			row.EgressRefused = l.refused[l.Users.UID(d.Addr)]
		}
		vm := l.vms[d.Addr]
		if vm != nil {
			row.Restarts = vm.restarts
		}
		if row.State == control.Running {
			row.PID, row.Port = vm.current.pid(), int(vm.current.Port)
			row.Confinement = &l.Confined
			row.List = listOf(vm.current.Policy)
		} else if d.Policy != nil {
			row.List = listOf(d.Policy)
		}
		status.VMs = append(status.VMs, row)
	}
	return status
}

// addressText returns an address as text; "" for one that a refused file does not have.
func addressText(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.String()
}

// problems are those that are not one AppVM's.
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

// summarize is the one line that `systemctl status` shows.
func (l *loop) summarize(now time.Time) string {
	l.noteStates(now)
	count := map[string]int{}
	var wrong []string
	for _, d := range l.want {
		is := l.states[d.Identity()]
		count[is.state]++
		if is.problem != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s", d.Name, is.problem))
		}
	}
	wrong = append(wrong, l.problems()...)
	var parts []string
	for _, state := range control.States {
		if n := count[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	line := "no rule files"
	if len(parts) > 0 {
		line = "AppVMs: " + strings.Join(parts, ", ")
	}
	if len(wrong) > 0 {
		line += "; " + wrong[0]
		if more := len(wrong) - 1; more > 0 {
			line += fmt.Sprintf(" (and %d more, see vifproxyctl show)", more)
		}
	}
	return terminal.OneLine(line) // for sd_notify(3)
}
