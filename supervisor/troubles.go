package supervisor

import (
	"errors"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
)

// troubles are the failures that are not one AppVM's. While one of reading an input or of writing the firewall lasts, nothing
// that depends on it changes. One of what is beside the way, such as the log, holds up nothing.
type troubles map[string]backoff.Failure

// note records how an attempt went, tells of a change, and returns when to try again; zero after a success. A fence that
// does not stand is told of where proxies are ended for it.
func (t troubles) note(emitter *events.Emitter, now time.Time, what string, err error) time.Time {
	return t.noteAs(events.Trouble, emitter, now, what, err)
}

// noteAs is note with another kind of event for a failure.
func (t troubles) noteAs(kind events.Kind, emitter *events.Emitter, now time.Time, what string, err error) time.Time {
	before, had := t[what]
	if err == nil {
		if had {
			delete(t, what)
			emitter.Emit(events.Recovered, events.About{What: what})
		}
		return time.Time{}
	}
	if (!had || before.Err.Error() != err.Error()) && !errors.Is(err, firewall.ErrUnfenced) {
		emitter.Emit(kind, events.About{What: what, Err: err.Error()})
	}
	t[what] = before.Next(now, err, false, 0)
	return t[what].Retry
}

// list is the troubles as a person reads them, in a stable order.
func (t troubles) list() []string {
	var all []string
	for what, f := range t {
		all = append(all, what+": "+f.Err.Error())
	}
	slices.Sort(all)
	return all
}

// Impaired has the loop ask what is wrong with something that AppVMs do not depend on, and tell of it: in the log, in `show`,
// and to systemd. problem returns nil if nothing is. Impaired never waits and may be called from anywhere.
func (s *Supervisor) Impaired(what string, problem func() error) {
	s.post(func(l *loop) {
		l.troubles.noteAs(events.Impaired, l.Events, time.Now(), what, problem())
		l.changed = true
	})
}
