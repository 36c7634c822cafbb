// Package agenda says when the loop does things at a time of their own.
//
// Concurrency: an Agenda belongs to one goroutine.
package agenda

import "time"

// A Task is something that the loop does at a time of its own, without an event.
type Task int

const (
	Links     Task = iota // read links
	Rules                 // read the rule directory
	Check                 // look whether firewall and sockets are as we left them
	Late                  // end all proxies, if the check beside the loop is not over
	Resync                // read everything
	Retired               // look at retired processes
	Plan                  // plan what the last plan put off, or what was done for one AppVM alone
	Expiry                // take back what was allowed for a time
	Resolvers             // read resolvers
	Ready                 // say that the daemon is ready although something is still starting
	Idle                  // give memory back: nothing has happened for a while
	News                  // plan with what mail changed
	Stops                 // try again to read, or write, what is stopped
	Unwatched             // read the inputs whose watchers do not work
	Held                  // look whether clients hold all slots of a proxy
	Answers               // answer those who ask for the status, although the firewall is being written
	tasks
)

// An Agenda says when each task is due. The zero time means that it is not.
type Agenda [tasks]time.Time

// At sets the time of a task; the zero time takes it off the agenda.
func (a *Agenda) At(what Task, when time.Time) { a[what] = when }

// By has a task done no later than when; the zero time changes nothing.
func (a *Agenda) By(what Task, when time.Time) {
	if !when.IsZero() && (!a.Has(what) || when.Before(a[what])) {
		a[what] = when
	}
}

// Has reports whether a task is on the agenda, now or later.
func (a *Agenda) Has(what Task) bool { return !a[what].IsZero() }

// IsDue reports whether it is time for one of the tasks.
func (a *Agenda) IsDue(now time.Time, what ...Task) bool {
	for _, w := range what {
		if a.Has(w) && !now.Before(a[w]) {
			return true
		}
	}
	return false
}

// Take reports whether a task is due, and takes it off the agenda if so.
func (a *Agenda) Take(what Task, now time.Time) bool {
	if !a.IsDue(now, what) {
		return false
	}
	a[what] = time.Time{}
	return true
}

// Next returns the earliest time on the agenda, or limit if that is earlier.
func (a *Agenda) Next(limit time.Time) time.Time {
	for _, when := range a {
		if !when.IsZero() {
			limit = Earlier(limit, when)
		}
	}
	return limit
}

// Earlier returns the earlier time.
func Earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Later returns the later time.
func Later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
