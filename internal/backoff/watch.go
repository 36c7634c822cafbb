package backoff

import (
	"context"
	"log/slog"
	"time"
)

// lostEventsDelay is how soon a watcher that works may lose events again before it waits, and the longest that it waits.
const lostEventsDelay = time.Second

// KeepWatching runs a watcher until ctx ends, and runs it again, with a growing delay, if it ends before. It calls changed when the
// watcher begins to work or ceases to, in whatever goroutine the watcher reports that.
//
// A watcher reports nil when it hears of every change from now on. If it does not hear of all, it reports an error and goes on. It
// may report the same as often as it likes, in the goroutine in which it was called.
func KeepWatching(ctx context.Context, log *slog.Logger, what string, watch func(ctx context.Context, report func(error)) error,
	changed func(error)) {
	var failure Failure
	var told error
	tell := func(err error) {
		if (err == nil) != (told == nil) || err != nil && err.Error() != told.Error() {
			told = err
			changed(err)
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
			failure = Failure{}
		}
		failure = failure.Next(time.Now(), what, err, false, served)
		delay := time.Until(failure.Retry)
		if served > 0 { // it can work: what it lost is read at once
			delay = min(delay, lostEventsDelay)
		}
		if delay <= 0 { // once in a long time, as when events came faster than they were read
			log.Warn("watching again", "what", what, "err", err)
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
