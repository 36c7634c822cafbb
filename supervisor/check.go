package supervisor

import (
	"context"
	"errors"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
)

// check makes the firewall hold what it was last made to hold. If nobody can have changed it since, a write is due that failed or was
// put off, and the plan does that.
func (l *loop) check(now time.Time) {
	l.completeWrite(now)
	l.holds = nil
	if !l.guard.suspect || l.last == nil {
		return
	}
	l.guard.Begin(now)
	state, same := l.lastThatServes()
	for again := !l.guard.doubt; ; again = false { // twice, unless the last one has failed
		w := l.begin(state, nil)
		w.same, w.again = same, again
		if l.await(w, nil, now); w.err == nil || !again {
			return
		}
	}
}

// lastThatServes returns what the firewall was last made to hold, without bindings to what no longer serves and without ports of
// processes that have ended. If there are none of these, it is the same.
func (l *loop) lastThatServes() (state firewall.State, same bool) {
	state = *l.last
	state.Bindings = nil
	for _, b := range l.last.Bindings {
		if l.vms[b.Addr].serves(b.To.Port()) != nil || l.trials.Has(b) {
			state.Bindings = append(state.Bindings, b)
		}
	}
	state.Guarded = slices.DeleteFunc(slices.Clone(state.Guarded), func(port uint16) bool { return !l.ports.InUse(port) })
	return state, len(state.Bindings) == len(l.last.Bindings) && len(state.Guarded) == len(l.last.Guarded)
}

// After another program's change the whole firewall has to be read, which takes milliseconds if there are many AppVMs. Qubes makes such
// a change each time that an AppVM comes, just before its vif is complete. So the loop does not wait for such a check, and meanwhile
// starts what is new. A process without a binding does nothing, and a binding waits for the check, as every write does.

// canCheckBeside reports whether the loop need not wait for a check. If a write has failed, the plan that follows a check tries it again.
func (l *loop) canCheckBeside() bool {
	g := &l.guard
	stands := l.holds != nil || l.checking()
	return l.ready && g.suspect && !g.doubt && g.unfenced == nil && stands && l.last != nil && l.knowsForward() && len(l.waiters) == 0
}

// checkBeside begins a check. If one is under way, the next begins when that one is over.
func (l *loop) checkBeside(now time.Time) {
	if l.checking() {
		l.guard.again = true
		return
	}
	l.completeWrite(now)
	if l.guard.unfenced != nil || l.last == nil { // so that write has ended
		l.agenda.By(agenda.Check, now)
		return
	}
	l.holds, l.guard.again = nil, false
	l.guard.Begin(now)
	state, same := l.lastThatServes()
	w := l.begin(state, l.lookAround())
	w.same, w.again, w.beside = same, true, true
	w.unbinds = len(state.Bindings) < len(l.last.Bindings)
	l.agenda.At(agenda.Late, now.Add(checkTimeout))
}

// lookAround returns a function that reads the rest of what a check looks at, for another goroutine. The loop takes that in unless it has
// read the same by itself since.
func (l *loop) lookAround() func() {
	l.guard.looks++
	look, follows := l.guard.looks, l.followsForward()
	readForward := l.Read.Forward
	if !follows {
		readForward = nil
	}
	return around(l.mail, readForward, l.Read.Listeners, func(l *loop, a surroundings) {
		if l.guard.looks != look {
			return
		}
		now := time.Now()
		if follows && l.heardForward(a.forward, a.forwardErr, now) {
			l.agenda.By(agenda.Plan, now)
		}
		l.heardListeners(a.listeners, a.listenersErr, proxies.Proxy.HasPort, a.at, now)
	})
}

// surroundings is what a check looks at in addition to our own rules.
type surroundings struct {
	forward                  firewall.Forward
	listeners                sockdiag.Listeners
	at                       time.Time // listeners were read then, or later
	forwardErr, listenersErr error
}

// around returns a function that reads the surroundings; readForward is nil if nobody needs those chains.
func around(mail *box, readForward func(context.Context) (firewall.Forward, error), readListeners func() (sockdiag.Listeners, error),
	then func(*loop, surroundings)) func() {
	return func() {
		var a surroundings
		if readForward != nil {
			ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
			defer cancel()
			a.forward, a.forwardErr = readForward(ctx)
		}
		a.at = time.Now()
		a.listeners, a.listenersErr = readListeners()
		mail.Post(func(l *loop) { then(l, a) })
	}
}

// checking reports whether a check is under way beside the loop.
func (l *loop) checking() bool { return l.writing != nil && l.writing.beside }

// noteChecked follows a check beside the loop. If it has failed, the loop waits for the next one, which comes at once.
func (l *loop) noteChecked(w *write, now time.Time) {
	g := &l.guard
	g.End(time.Now())
	l.agenda.At(agenda.Late, time.Time{})
	switch {
	case w.err != nil, w.same && w.writes > 0, w.unbinds:
		l.agenda.By(agenda.Plan, now)
	case !w.same:
		l.agenda.By(agenda.Plan, now.Add(lonePlanDelay))
	}
	switch {
	case w.err != nil && !errors.Is(w.err, firewall.ErrShut):
		g.suspect, g.doubt = true, true
		l.agenda.By(agenda.Check, now)
	case g.again:
		g.suspect = true
		l.agenda.By(agenda.Check, g.Next(now))
	}
	g.again = false
}

// giveUp counts a write that takes too long as failed.
func (l *loop) giveUp(w *write) {
	l.unfence(errLate)
	w.late = true
	w.putOff()
}

// unfence ends all proxies, and lets none start until the fence stands.
func (l *loop) unfence(why error) {
	if l.guard.unfenced == nil {
		l.Events.Emit(events.Unfenced, events.About{Err: why.Error()})
	}
	l.guard.unfenced = why
	l.end(plan.Unfenced(l.actual()).End)
	l.trials.GiveUp()
	l.changed = true
}
