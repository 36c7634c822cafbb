package events

import (
	"context"
	"slices"
	"time"
)

// backlogMax is how many events wait for a slow watcher.
const backlogMax = 256

// A watcher is one call of Watch.
type watcher struct {
	names   []string // of the AppVMs that it is about; none: all
	waiting []Event
	missed  int
	wake    chan struct{} // capacity 1
}

// add leaves an event for a watcher to read. The caller holds Emitter.mu.
func (w *watcher) add(event Event) {
	if event.VM != "" && len(w.names) > 0 && !slices.Contains(w.names, event.VM) &&
		(event.Old == "" || !slices.Contains(w.names, event.Old)) {
		return
	}
	if len(w.waiting) < backlogMax && w.missed == 0 {
		w.waiting = append(w.waiting, event)
	} else {
		w.missed++
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch calls send for each event from now on that concerns the named AppVMs, or any if none is named, and for each that
// concerns no AppVM in particular, until ctx ends or send fails. A slow send delays nobody else: up to backlogMax events wait
// for it, and the others are counted.
func (e *Emitter) Watch(ctx context.Context, names []string, send func(Event) error) error {
	w := &watcher{names: names, wake: make(chan struct{}, 1)}
	e.mu.Lock()
	e.watchers[w] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.watchers, w)
		e.mu.Unlock()
	}()
	err := send(Event{Time: time.Now(), Event: Watching, Level: "info", Text: "watching"})
	for err == nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		e.mu.Lock()
		events, missed := w.waiting, w.missed
		w.waiting, w.missed = nil, 0
		e.mu.Unlock()
		for _, event := range events {
			if err = send(event); err != nil {
				return err
			}
		}
		if missed > 0 {
			err = send(Event{
				Time: time.Now(), Event: Missed, Level: "warn", Text: "events missed",
				About: About{Count: missed},
			})
		}
	}
	return err
}
