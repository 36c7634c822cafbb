package supervisor

import (
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
)

// findingsMax bounds what one rule file can say in the log.
const findingsMax = 20

// emitChanges tells what is different in the desired state, once for each change.
func (l *loop) emitChanges(before []*plan.Desired) {
	// The same AppVM is one with the same address, whatever its name; refused files may have none.
	same := func(d *plan.Desired) plan.Identity {
		if d.Addr.IsValid() {
			return plan.Identity{Addr: d.Addr}
		}
		return plan.Identity{Name: d.Name}
	}
	was := make(map[plan.Identity]*plan.Desired, len(before))
	for _, d := range before {
		was[same(d)] = d
	}
	for _, d := range l.want {
		l.emitChange(was[same(d)], d)
		delete(was, same(d))
	}
	for _, old := range was {
		l.Events.Emit(events.RulesGone, events.About{VM: old.Name, IP: old.Addr})
	}
}

// tell tells what is different for one AppVM; old is nil if it had no rule file.
func (l *loop) emitChange(old, d *plan.Desired) {
	about := events.About{VM: d.Name, IP: d.Addr}
	switch {
	case old == nil:
		l.Events.Emit(events.RulesFound, about)
	case d.Name != old.Name:
		l.Events.Emit(events.RulesRenamed, events.About{VM: d.Name, IP: d.Addr, Old: old.Name})
	}
	if old == nil {
		old = &plan.Desired{}
	}
	var known []string
	if old.Policy != nil {
		known = old.Policy.Findings
	}
	if d.Policy != nil {
		for i, finding := range d.Policy.Findings {
			if i == findingsMax {
				l.Events.Emit(events.RulesSuspiciousMore, events.About{VM: d.Name, IP: d.Addr, Count: len(d.Policy.Findings) - i})
				break
			}
			if !slices.Contains(known, finding) {
				l.Events.Emit(events.RulesSuspicious, events.About{VM: d.Name, IP: d.Addr, Err: finding})
			}
		}
	}
	if d.Policy != nil && listOf(d.Policy) == control.Black && (old.Policy == nil || listOf(old.Policy) != control.Black) {
		l.Events.Emit(events.BlackList, about)
	}
	for _, vif := range d.Vifs {
		if !slices.Contains(old.Vifs, vif) {
			l.Events.Emit(events.Connected, events.About{VM: d.Name, IP: d.Addr, VIF: vif})
		}
	}
	for _, vif := range old.Vifs {
		if !slices.Contains(d.Vifs, vif) {
			l.Events.Emit(events.Disconnected, events.About{VM: d.Name, IP: d.Addr, VIF: vif})
		}
	}
	switch {
	case d.StoppedBy != "" && old.StoppedBy == "":
		l.Events.Emit(events.Stopped, events.About{VM: d.Name, IP: d.Addr, Why: "by " + d.StoppedBy + ", since " + d.Since.Format(time.DateTime)})
	case d.StoppedBy == "" && old.StoppedBy != "":
		l.Events.Emit(events.Started, about)
	}
	d.Told = d.Err
	if unsettled(d.Err) != nil {
		d.Told = old.Told
	}
	switch {
	case d.Told != nil && (old.Told == nil || old.Told.Error() != d.Told.Error()):
		l.Events.Emit(events.RulesRefused, events.About{VM: d.Name, IP: d.Addr, Err: d.Told.Error()})
	case d.Told == nil && old.Told != nil:
		l.Events.Emit(events.RulesAccepted, about)
	}
}
