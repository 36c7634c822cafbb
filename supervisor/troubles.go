package supervisor

import (
	"errors"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
)

// troubles are the failures that are not one AppVM's: of reading an input, of writing the firewall. While one
// lasts, nothing that depends on it changes.
type troubles map[string]Failure

// note records how an attempt went, tells of a change, and returns when to try again; zero after a success. A fence that
// does not stand is told of where proxies are ended for it.
func (t troubles) note(events *Events, now time.Time, what string, err error) time.Time {
	return t.noteAs(trouble, events, now, what, err)
}

// noteAs is note with another kind of event for a failure.
func (t troubles) noteAs(kind *Kind, events *Events, now time.Time, what string, err error) time.Time {
	before, had := t[what]
	if err == nil {
		if had {
			delete(t, what)
			events.Emit(recovered, control.About{What: what})
		}
		return time.Time{}
	}
	if (!had || before.Err.Error() != err.Error()) && !errors.Is(err, firewall.ErrUnfenced) {
		events.Emit(kind, control.About{What: what, Err: err.Error()})
	}
	t[what] = before.next(now, err, false, 0)
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
