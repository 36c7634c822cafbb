package news

import (
	"errors"
	"slices"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/internal/sightings"
	"vifproxy/rules"
)

// findingsMax is how many findings about one rule file are events.
const findingsMax = 20

// EmitChanges emits an event for each difference between what should have been there before and what should be there now, and one for each
// AppVM that book doubts.
func EmitChanges(emitter *events.Emitter, book *sightings.Book, before, now []*plan.Desired) {
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
	for _, d := range now {
		EmitChange(emitter, book, was[same(d)], d)
		delete(was, same(d))
	}
	for _, old := range was {
		book.Forget(old.Name, old.Addr)
		if old.Origin == rules.InRange { // whose AppVMs are there only while they are connected
			emitLeft(emitter, old, &plan.Desired{})
			continue
		}
		emitter.Emit(events.RulesGone, events.About{VM: old.Name, IP: old.Addr, What: whereFrom(old.Origin)})
	}
}

// EmitChange does so for one AppVM; old is nil if it had no rule file. It sets d.Told.
func EmitChange(emitter *events.Emitter, book *sightings.Book, old, d *plan.Desired) {
	about := events.About{VM: d.Name, IP: d.Addr}
	switch {
	case old == nil && d.Origin == rules.InRange:
	case old == nil:
		emitter.Emit(events.RulesFound, events.About{VM: d.Name, IP: d.Addr, What: whereFrom(d.Origin)})
	case d.Name != old.Name:
		book.Forget(old.Name, old.Addr)
		emitter.Emit(events.RulesRenamed, events.About{VM: d.Name, IP: d.Addr, Old: old.Name})
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
				emitter.Emit(events.RulesSuspiciousMore, events.About{VM: d.Name, IP: d.Addr, Count: len(d.Policy.Findings) - i})
				break
			}
			if !slices.Contains(known, finding) {
				emitter.Emit(events.RulesSuspicious, events.About{VM: d.Name, IP: d.Addr, Err: finding})
			}
		}
	}
	if isBlack(d.Policy) && !isBlack(old.Policy) {
		emitter.Emit(events.BlackList, about)
	}
	if why := anyAddress(d.Policy); why != "" && why != anyAddress(old.Policy) && !isBlack(d.Policy) {
		emitter.Emit(events.AnyAddress, events.About{VM: d.Name, IP: d.Addr, Why: why})
	}
	for _, vif := range d.Vifs {
		if !slices.Contains(old.Vifs, vif) {
			emitter.Emit(events.Connected, events.About{VM: d.Name, IP: d.Addr, VIF: vif})
		}
	}
	if d.Origin == rules.InDom0 || d.Origin == rules.InFile { // other lists are made for whoever has the address
		if doubt := book.Note(d.Name, d.Addr, d.Vifs); doubt != "" {
			emitter.Emit(events.Unseen, events.About{VM: d.Name, IP: d.Addr, Why: doubt})
		}
	}
	if len(old.Vifs) > 0 {
		emitLeft(emitter, &plan.Desired{Name: d.Name, Addr: d.Addr, Vifs: old.Vifs}, d)
	}
	switch {
	case d.StoppedBy != "" && old.StoppedBy == "":
		emitter.Emit(events.Stopped, events.About{VM: d.Name, IP: d.Addr, Why: "by " + d.StoppedBy + ", since " + d.Since.Format(time.DateTime)})
	case d.StoppedBy == "" && old.StoppedBy != "":
		emitter.Emit(events.Started, about)
	}
	d.Told = d.Err
	if Unsettled(d.Err) != nil {
		d.Told = old.Told
	}
	switch {
	case d.Told != nil && (old.Told == nil || old.Told.Error() != d.Told.Error()):
		emitter.Emit(events.RulesRefused, events.About{VM: d.Name, IP: d.Addr, Err: d.Told.Error()})
	case d.Told == nil && old.Told != nil:
		emitter.Emit(events.RulesAccepted, about)
	}
}

// whereFrom returns where a list is, if that is no file.
func whereFrom(origin rules.Origin) string {
	switch origin {
	case rules.InDom0:
		return "in dom0"
	case rules.InFirewall:
		return "firewall settings in dom0"
	}
	return ""
}

// emitLeft emits that an AppVM has left vifs by which it was connected.
func emitLeft(emitter *events.Emitter, old, d *plan.Desired) {
	for _, vif := range old.Vifs {
		if !slices.Contains(d.Vifs, vif) {
			emitter.Emit(events.Disconnected, events.About{VM: old.Name, IP: old.Addr, VIF: vif})
		}
	}
}

// Unsettled returns the error of a file that somebody is writing, and nil for others.
func Unsettled(err error) *rules.Error {
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) && flaw.Unsettled {
		return flaw
	}
	return nil
}

// anyAddress returns why a policy's proxy may connect to any public address; "" if it may not.
func anyAddress(p *policy.Policy) string {
	if p == nil {
		return ""
	}
	return p.AnyAddress
}

// isBlack reports whether a policy has a black list.
func isBlack(p *policy.Policy) bool { return p != nil && !p.Config.Filter.DefaultDeny }
