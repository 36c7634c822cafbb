// Package news says what people are told: of changes in what should be there ([EmitChanges]), and of what does not work ([Troubles]).
//
// Concurrency: Troubles belong to one goroutine. EmitChanges may be called from any, for values that belong to the caller.
package news

import (
	"errors"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
)

// Troubles are the failures that are not one AppVM's, by what fails. While an input cannot be read, or the firewall not be written,
// nothing that depends on it changes. A failure of something else, such as the log, holds up nothing.
type Troubles map[string]backoff.Failure

// Note records how an attempt went, emits an event if that is a change, and returns when to try again; zero after a success. It emits
// nothing about a fence that does not stand, because ending the proxies does.
func (t Troubles) Note(emitter *events.Emitter, now time.Time, what string, err error) time.Time {
	return t.NoteAs(events.Trouble, emitter, now, what, err)
}

// NoteAs is Note with another kind of event for a failure.
func (t Troubles) NoteAs(kind events.Kind, emitter *events.Emitter, now time.Time, what string, err error) time.Time {
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
	if now.Before(before.Retry) { // something else has had it tried sooner, which says nothing of how long it fails
		before.Err = err
		t[what] = before
		return before.Retry
	}
	t[what] = before.Next(now, what, err, false, 0)
	return t[what].Retry
}

// Lines returns the troubles as a person reads them, in a stable order.
func (t Troubles) Lines() []string {
	var all []string
	for what, f := range t {
		all = append(all, what+": "+f.Err.Error())
	}
	slices.Sort(all)
	return all
}
