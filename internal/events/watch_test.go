package events

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
)

// TestSlowWatcherMissesEvents: it delays neither the daemon nor others, costs no more than its backlog, and learns
// how much it has missed.
func TestSlowWatcherMissesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		resume := make(chan bool)
		var slow, quick []Event
		done := make(chan error)
		go func() {
			done <- e.Watch(ctx, nil, func(event Event) error {
				<-resume
				slow = append(slow, event)
				return nil
			})
		}()
		go func() {
			done <- e.Watch(ctx, nil, func(event Event) error {
				quick = append(quick, event)
				return nil
			})
		}()
		synctest.Wait()
		const n = 10 * backlogMax
		for i := range n {
			e.Emit(Trouble, About{Count: i + 1})
			synctest.Wait()
		}
		if len(quick) != 1+n || quick[n].Count != n {
			t.Errorf("the quick one was told %d events", len(quick))
		}
		close(resume)
		synctest.Wait()
		if last := slow[len(slow)-1]; len(slow) != 1+backlogMax+1 || last.Event != Missed ||
			last.Count != n-backlogMax {
			t.Errorf("the slow one was told %d events, the last %+v", len(slow), last)
		}
		e.Emit(Recovered, About{})
		synctest.Wait()
		if last := slow[len(slow)-1]; last.Event != "recovered" {
			t.Errorf("then %+v", last)
		}
		cancel()
		if err := errors.Join(<-done, <-done); !errors.Is(err, context.Canceled) || len(e.watchers) != 0 {
			t.Errorf("%v, %d watchers left", err, len(e.watchers))
		}
	})
}

// A person who watches an AppVM learns when that gets another name.
func TestWatcherIsToldOfARename(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		done := make(chan error)
		go func() {
			done <- e.Watch(ctx, []string{"old"}, func(event Event) error {
				told = append(told, event.Event+" "+event.VM)
				return nil
			})
		}()
		synctest.Wait()
		e.Emit(RulesFound, About{VM: "other"})
		e.Emit(RulesRenamed, About{VM: "new", Old: "old"})
		e.Emit(Refused, About{VM: "new"})
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || len(told) != 2 || told[1] != "rules-renamed new" {
			t.Errorf("%v, told %q", err, told)
		}
	})
}
