package news

import (
	"fmt"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/backoff"
	"vifproxy/internal/plan"
)

// A Condition is how an AppVM is.
type Condition struct {
	State   string // one of control.States
	Problem string // what is wrong, also while it is served
}

// Has is what an AppVM has that should have a proxy.
type Has struct {
	Served   bool            // bindings lead to a process
	Starting bool            // a process is on its way up
	Failure  backoff.Failure // of the policy that it should have
	Unfenced error           // why no proxy may run; nil if one may
	Firewall error           // why the firewall cannot be written
}

// ConditionOf returns how an AppVM is.
func ConditionOf(d *plan.Desired, has Has) (c Condition) {
	switch {
	case d.Wanted() && has.Unfenced != nil:
		c.Problem = "firewall: " + has.Unfenced.Error()
	case d.Err != nil:
		c.Problem = d.Err.Error()
	case has.Failure.Err != nil:
		c.Problem = has.Failure.Err.Error()
	}
	switch {
	case d.Held:
		c.State = control.Stopped
	case len(d.Vifs) == 0 && d.Err == nil:
		c.State = control.Waiting
	case d.Wanted() && has.Unfenced != nil:
		c.State = control.Failed
	case has.Served:
		c.State = control.Running
	case d.Err != nil || has.Failure.Bad:
		c.State = control.Refused
	case has.Failure.Err != nil && !has.Starting:
		c.State = control.Failed
	case has.Firewall != nil:
		c.State = control.Failed
		c.Problem = "firewall: " + has.Firewall.Error()
	default:
		c.State = control.Starting
	}
	return c
}

// Summary returns a sentence about AppVMs, with their conditions, and about problems that are not one AppVM's.
func Summary(want []*plan.Desired, conditions []Condition, problems []string) string {
	count := map[string]int{}
	var wrong []string
	for i, c := range conditions {
		count[c.State]++
		if c.Problem != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s", want[i].Name, c.Problem))
		}
	}
	wrong = append(wrong, problems...)
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
	return line
}
