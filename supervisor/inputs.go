package supervisor

import (
	"net/netip"
	"time"

	"vifproxy/internal/agenda"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
)

const (
	// quietPeriod is how long the rule directory has to be quiet before it is read, because editors write in bursts.
	quietPeriod = 10 * time.Millisecond
	// quietPeriodMax is how long the loop waits for that.
	quietPeriodMax = 100 * time.Millisecond
)

// resync has everything read at once.
func (l *loop) resync(now time.Time) {
	l.burstAt = time.Time{}
	for _, what := range []agenda.Task{agenda.Links, agenda.Rules, agenda.Check} {
		l.agenda.At(what, now)
	}
	l.guard.suspect = true
	l.guard.Forgive()
	l.agenda.At(agenda.Resync, now.Add(l.Resync))
}

// schedule turns reasons, except Rules, into times: at once, or when it is the turn of a check.
func (l *loop) schedule(reasons mailbox.Reason, now time.Time) {
	if reasons.Has(mailbox.Links) {
		l.agenda.At(agenda.Links, now)
	}
	if reasons.Has(mailbox.Resolvers) {
		l.agenda.At(agenda.Resolvers, now)
	}
	if reasons.Has(mailbox.Firewall) {
		l.guard.suspect = true
		l.guard.again = l.checking()
		l.agenda.By(agenda.Check, l.guard.Next(now))
	}
}

// expectRules schedules a reading of the rules for when the changes of them are over. The first and last of these are given as far
// as they are known.
func (l *loop) expectRules(first, last, now time.Time) {
	if l.burstAt.IsZero() {
		l.burstAt, l.editedAt = now, first
	}
	l.agenda.At(agenda.Rules, agenda.Earlier(last.Add(quietPeriod), l.burstAt.Add(quietPeriodMax)))
}

// stale reports whether the rules of AppVMs may differ from those that were read last. If so, they are read soon. It asks the file
// system, because netlink may have been faster than inotify.
func (l *loop) stale(now time.Time, of ...netip.Addr) bool {
	if l.burstAt.IsZero() && l.Read.RulesChanged(of...) {
		l.expectRules(now, now, now)
	}
	return !l.burstAt.IsZero()
}

// read reads the inputs that are due, and reports whether there is anything to reconcile. An input that cannot be read stays as it
// was last known: "could not read" is never "there is nothing".
func (l *loop) read(now time.Time) bool {
	l.heardAt = now
	work := l.takeNews(now)
	work = l.readLinks(now) || work
	work = l.readRules(now) || work
	work = l.expire(now) || work
	if l.agenda.Take(agenda.Late, now) && l.checking() {
		work = true
		l.giveUp(l.writing)
	}
	switch {
	case l.agenda.IsDue(now, agenda.Check) && l.canCheckBeside() && !work:
		l.agenda.At(agenda.Check, time.Time{})
		l.checkBeside(now)
	case l.agenda.Take(agenda.Check, now):
		work = true
		l.guard.looks++
		if l.knowsForward() {
			l.check(now) // before anything else
			l.readForward(now)
		} else {
			l.readForward(now) // nothing starts without it
			l.check(now)
		}
		l.checkListeners(now)
	}
	if l.agenda.Take(agenda.Held, now) {
		l.checkListeners(now)
	}
	for _, what := range []agenda.Task{agenda.Retired, agenda.Plan, agenda.Ready, agenda.Resolvers} {
		work = l.agenda.Take(what, now) || work
	}
	if work {
		l.readBinary(now)
		l.readPlaces(l.pages(l.want), now)
		l.readResolvers(now)
	}
	return work
}

// takeNews reports whether it is time to plan with what mail has changed.
func (l *loop) takeNews(now time.Time) bool {
	if l.changed && !l.agenda.Has(agenda.News) {
		l.agenda.At(agenda.News, now)
		if l.starting() >= bulkStart {
			l.agenda.At(agenda.News, agenda.Later(now, l.plannedAt.Add(fullPlanDelay)))
		}
	}
	l.changed = false
	return l.agenda.Take(agenda.News, now)
}

// readLinks reads the links if that is due, and reports whether they have changed: most events of an attach change nothing yet.
func (l *loop) readLinks(now time.Time) bool {
	if !l.agenda.Take(agenda.Links, now) {
		return false
	}
	links, err := l.Read.Links()
	l.agenda.At(agenda.Links, l.troubles.Note(l.Events, now, "links", err))
	if err != nil {
		return true
	}
	changed := !links.Equal(l.inputs.Links)
	l.inputs.Links = links
	return changed
}

// readRules reads the rule directory if that is due, and reports whether it has.
func (l *loop) readRules(now time.Time) bool {
	if !l.agenda.Take(agenda.Rules, now) {
		return false
	}
	set, err := l.Read.Rules()
	over := l.burstAt.Add(quietPeriodMax) // long ago, if nothing settles
	l.agenda.At(agenda.Rules, l.troubles.Note(l.Events, now, "rules", err))
	if err == nil && now.Before(over) && set.Truncated(l.inputs.Rules) {
		l.agenda.At(agenda.Rules, over) // somebody is about to write
		return false
	}
	if err == nil {
		l.cache.Keep(l.inputs.Rules, set)
		l.inputs.Rules = set
		l.writers.Note(l.Events, l.troubles, set, now)
		if set.Again > 0 {
			l.agenda.At(agenda.Rules, time.Now().Add(set.Again)) // reading takes its time
		}
	}
	if !l.burstAt.IsZero() {
		l.heardAt, l.burstAt = l.editedAt, time.Time{}
	}
	return true
}

func (l *loop) readResolvers(now time.Time) {
	resolvers, err := l.Read.Resolvers()
	if retry := l.troubles.Note(l.Events, now, "resolvers", err); err != nil {
		l.agenda.By(agenda.Resolvers, retry)
		return
	}
	l.inputs.Resolvers.Listed(resolvers, now)
	l.agenda.By(agenda.Resolvers, l.inputs.Resolvers.Next())
}

// readPlaces reads what sandboxes depend on, among it these pages.
func (l *loop) readPlaces(pages []string, now time.Time) {
	known, next := l.moved.Believe(l.inputs.Places, l.Read.Places(pages...), now)
	l.inputs.Places = known
	l.agenda.By(agenda.Resolvers, next)
}

// pages returns the files that tinyproxy reads while it serves: for what should be there, and for the last good policies.
func (l *loop) pages(want []*plan.Desired) []string {
	var good []*policy.Policy
	for _, vm := range l.vms {
		good = append(good, vm.good.Policies()...)
	}
	return plan.Pages(want, good)
}

// desired returns what should be there. It looks first at pages at which nobody has looked.
func (l *loop) desired(now time.Time) []*plan.Desired {
	want := l.inputs.Desired(l.cache)
	if pages := l.pages(want); !l.inputs.Places.Have(pages) {
		l.readPlaces(pages, now)
		want = l.inputs.Desired(l.cache)
	}
	return want
}

func (l *loop) readBinary(now time.Time) {
	binary, err := l.Read.Binary()
	if l.troubles.Note(l.Events, now, "tinyproxy", err); err == nil {
		l.inputs.Binary = binary
	}
}
