package supervisor

import "time"

// A task is something that the loop does at a time of its own, without an event.
type task int

const (
	dueLinks     task = iota // read links
	dueRules                 // read the rule directory
	dueCheck                 // look whether firewall and sockets are as we left them
	dueLate                  // end all proxies, if the check beside the loop is not over
	dueResync                // read everything
	dueRetired               // look at retired processes
	duePlan                  // plan what the last plan put off, or what was done for one AppVM alone
	dueExpiry                // take back what was allowed for a time
	dueResolvers             // read resolvers
	dueReady                 // say that the daemon is ready although something is still starting
	dueIdle                  // give memory back: nothing has happened for a while
	dueNews                  // plan with what mail changed
	dueStops                 // try again to read, or write, what is stopped
	dueUnwatched             // read the inputs whose watchers do not work
	dueHeld                  // look whether clients hold all slots of a proxy
	dueAnswers               // answer those who ask for the status, although the firewall is being written
	tasks
)

// An agenda says when each task is due. The zero time means that it is not.
type agenda [tasks]time.Time

// at sets the time of a task; the zero time takes it off the agenda.
func (a *agenda) at(what task, when time.Time) { a[what] = when }

// by has a task done no later than when; the zero time changes nothing.
func (a *agenda) by(what task, when time.Time) {
	if !when.IsZero() && (!a.has(what) || when.Before(a[what])) {
		a[what] = when
	}
}

// has reports whether a task is on the agenda, now or later.
func (a *agenda) has(what task) bool { return !a[what].IsZero() }

// isDue reports whether it is time for one of the tasks.
func (a *agenda) isDue(now time.Time, what ...task) bool {
	for _, w := range what {
		if a.has(w) && !now.Before(a[w]) {
			return true
		}
	}
	return false
}

// take reports whether a task is due, and takes it off the agenda if so.
func (a *agenda) take(what task, now time.Time) bool {
	if !a.isDue(now, what) {
		return false
	}
	a[what] = time.Time{}
	return true
}

// next returns the earliest time on the agenda, or limit if that is earlier.
func (a *agenda) next(limit time.Time) time.Time {
	for _, when := range a {
		if !when.IsZero() {
			limit = earlier(limit, when)
		}
	}
	return limit
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
