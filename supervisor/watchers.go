package supervisor

import (
	"context"
	"time"

	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
)

// unwatchedInterval is how often an input is read whose watcher does not work.
const unwatchedInterval = 5 * time.Second

// KeepWatching runs a watcher until ctx ends, and runs it again, with a growing delay, if it ends before; see backoff.KeepWatching.
// As long as the watcher does not work, its input is read every 5 s, and `show` names that among the problems.
func (s *Supervisor) KeepWatching(ctx context.Context, what string, input Reason,
	watch func(ctx context.Context, report func(error)) error) {
	backoff.KeepWatching(ctx, s.Events.Log, what, watch, func(err error) {
		s.post(func(l *loop) { l.heardWatcher(what, input, err) })
	})
}

// heardWatcher notes whether the watcher of an input works.
func (l *loop) heardWatcher(what string, input Reason, err error) {
	now := time.Now()
	l.troubles.NoteAs(events.WatchFailed, l.Events, now, "events of "+what, err)
	if err == nil {
		delete(l.unwatched, what)
	} else {
		l.unwatched[what] = input
		l.agenda.by(dueUnwatched, now.Add(unwatchedInterval))
	}
	l.changed = true // systemd is told
}

// pollUnwatched adds the inputs that nobody watches to the reasons for a round, if it is time.
func (l *loop) pollUnwatched(reasons wakeups, now time.Time) wakeups {
	if !l.agenda.take(dueUnwatched, now) {
		return reasons
	}
	for _, input := range l.unwatched {
		reasons.Reason |= input
		l.agenda.at(dueUnwatched, now.Add(unwatchedInterval))
	}
	if reasons.has(Rules) && reasons.last.IsZero() {
		reasons.first, reasons.last = now, now
	}
	return reasons
}

// Impaired makes the loop ask what is wrong with something that AppVMs do not depend on, for the log, `show` and systemd. problem
// returns nil if nothing is wrong. Impaired never waits.
func (s *Supervisor) Impaired(what string, problem func() error) {
	s.post(func(l *loop) {
		l.troubles.NoteAs(events.Impaired, l.Events, time.Now(), what, problem())
		l.changed = true
	})
}
