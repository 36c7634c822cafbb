package supervisor

import (
	"context"
	"time"

	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
)

// unwatchedInterval is how often an input is read whose watcher does not work.
const unwatchedInterval = 5 * time.Second

// lostEventsDelay is how soon a watcher that works may lose events again before it waits, and the longest that it waits.
const lostEventsDelay = time.Second

// KeepWatching runs a watcher until ctx ends, and runs it again, with a growing delay, when it ends before. As long as it
// does not work, its input is read every 5 s, and that is among the problems.
//
// The watcher reports nil when it hears of every change from now on, and an error when it does not hear of all, and then
// goes on. It may report the same as often as it likes, in the goroutine in which it was called.
func (s *Supervisor) KeepWatching(ctx context.Context, what string, input Reason,
	watch func(ctx context.Context, report func(error)) error) {
	var failure backoff.Failure
	var told error
	tell := func(err error) {
		if (err == nil) != (told == nil) || err != nil && err.Error() != told.Error() {
			told = err
			s.post(func(l *loop) { l.heardWatcher(what, input, err) })
		}
	}
	for {
		var works time.Time
		err := watch(ctx, func(err error) {
			if tell(err); works.IsZero() {
				works = time.Now()
			}
		})
		if ctx.Err() != nil {
			return
		}
		var served time.Duration
		if !works.IsZero() {
			served = time.Since(works)
		}
		if served >= lostEventsDelay {
			failure = backoff.Failure{}
		}
		failure = failure.Next(time.Now(), err, false, served)
		delay := time.Until(failure.Retry)
		if served > 0 { // it can work: what it lost is read at once
			delay = min(delay, lostEventsDelay)
		}
		if delay <= 0 { // once in a long time, as when events came faster than they were read
			s.Events.Log.Warn("watching again", "what", what, "err", err)
		} else {
			tell(err)
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return
		}
	}
}

// hears notes whether the watcher of an input works.
func (l *loop) heardWatcher(what string, input Reason, err error) {
	now := time.Now()
	l.troubles.noteAs(events.WatchFailed, l.Events, now, "events of "+what, err)
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
