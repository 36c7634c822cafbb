package tinyproxy

import (
	"fmt"
	"time"

	"vifproxy/internal/events"
)

// deadline returns when a request is to be reported if no line comes before; zero for never.
func (r *Requests) deadline(p pending) time.Time {
	switch {
	case p.step == opening:
		return p.since.Add(connectPatience)
	case p.step == asked && r.config.BasicAuth:
		return p.since.Add(passwordPatience)
	}
	return time.Time{}
}

// wake reports what is due, and sets the timer for the rest.
func (r *Requests) wake(now time.Time) {
	var next time.Time
	for i := 0; i < len(r.pending); i++ {
		p := &r.pending[i]
		at := r.deadline(*p)
		switch {
		case at.IsZero():
		case now.Before(at):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case p.step == opening:
			p.step = waiting
			d := events.Denial{Host: p.host, Port: p.port, Reason: events.ReasonConnect, Waiting: true, Took: now.Sub(p.since),
				Why: fmt.Sprintf("no answer for %.0f s", now.Sub(p.since).Seconds())}
			r.deny(d)
		default:
			r.unauthorized(r.remove(i))
			i--
		}
	}
	if next.Equal(r.rings) {
		return
	}
	r.rings = next
	switch {
	case next.IsZero():
		r.timer.Stop()
	case r.timer == nil:
		r.timer = time.AfterFunc(next.Sub(now), r.fire)
	default:
		r.timer.Reset(next.Sub(now))
	}
}

func (r *Requests) fire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.rings = time.Time{}
		r.wake(time.Now())
	}
}

// End notes that the process has ended. Requests without an outcome are not reported.
func (r *Requests) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended, r.pending = true, nil
	if r.timer != nil {
		r.timer.Stop()
	}
}
