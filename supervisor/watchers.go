package supervisor

import (
	"context"
	"time"

	"vifproxy/internal/agenda"
	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
)

// unwatchedInterval is how often the loop reads an input whose watcher does not work.
const unwatchedInterval = 5 * time.Second

// KeepWatching runs a watcher until ctx ends, and runs it again, with a growing delay, if it ends before; see backoff.KeepWatching.
// As long as the watcher does not work, its input is read every 5 s, and `show` names that among the problems.
func (s *Supervisor) KeepWatching(ctx context.Context, what string, input mailbox.Reason,
	watch func(ctx context.Context, report func(error)) error) {
	backoff.KeepWatching(ctx, s.config.Events.Log, what, watch, func(err error) {
		s.mail.Post(func(l *loop) { l.heardWatcher(what, input, err) })
	})
}

// heardWatcher notes whether the watcher of an input works.
func (l *loop) heardWatcher(what string, input mailbox.Reason, err error) {
	now := time.Now()
	l.troubles.NoteAs(events.WatchFailed, l.Events, now, "events of "+what, err)
	if err == nil {
		delete(l.unwatched, what)
	} else {
		l.unwatched[what] = input
		l.agenda.By(agenda.Unwatched, now.Add(unwatchedInterval))
	}
	l.changed = true // systemd is told
}

// pollUnwatched adds the inputs that nobody watches to the reasons for a round, if it is time.
func (l *loop) pollUnwatched(reasons mailbox.Wakeups, now time.Time) mailbox.Wakeups {
	if !l.agenda.Take(agenda.Unwatched, now) {
		return reasons
	}
	for _, input := range l.unwatched {
		reasons.Reason |= input
		l.agenda.At(agenda.Unwatched, now.Add(unwatchedInterval))
	}
	if reasons.Has(mailbox.Rules) && reasons.Last.IsZero() {
		reasons.First, reasons.Last = now, now
	}
	return reasons
}

// Trouble makes the loop ask what is wrong with something, for the log, `show` and systemd. kind is the event if something is. problem
// returns nil if nothing is wrong. Trouble never waits.
func (s *Supervisor) Trouble(kind events.Kind, what string, problem func() error) {
	s.mail.Post(func(l *loop) {
		_, had := l.troubles[what]
		err := problem()
		l.troubles.NoteAs(kind, l.Events, time.Now(), what, err)
		l.changed = l.changed || had || err != nil // what goes on working changes nothing
	})
}
