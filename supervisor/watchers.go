package supervisor

import (
	"context"
	"time"

	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
)

// deafPoll is how often an input is read whose watcher does not work.
const deafPoll = 5 * time.Second

// lostAgain is how soon a watcher that works may lose events again before it waits, and the longest that it waits.
const lostAgain = time.Second

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
			s.post(func(l *loop) { l.hears(what, input, err) })
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
		if served >= lostAgain {
			failure = backoff.Failure{}
		}
		failure = failure.Next(time.Now(), err, false, served)
		delay := time.Until(failure.Retry)
		if served > 0 { // it can work: what it lost is read at once
			delay = min(delay, lostAgain)
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
func (l *loop) hears(what string, input Reason, err error) {
	now := time.Now()
	l.troubles.noteAs(events.WatchFailed, l.Events, now, "events of "+what, err)
	if err == nil {
		delete(l.deafTo, what)
	} else {
		l.deafTo[what] = input
		l.agenda.by(dueUnwatched, now.Add(deafPoll))
	}
	l.changed = true // systemd is told
}

// pollDeaf adds the inputs that nobody watches to the reasons for a round, if it is time.
func (l *loop) pollDeaf(reasons woken, now time.Time) woken {
	if !l.agenda.take(dueUnwatched, now) {
		return reasons
	}
	for _, input := range l.deafTo {
		reasons.Reason |= input
		l.agenda.at(dueUnwatched, now.Add(deafPoll))
	}
	if reasons.has(Rules) && reasons.last.IsZero() {
		reasons.first, reasons.last = now, now
	}
	return reasons
}
