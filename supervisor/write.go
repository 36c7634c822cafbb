package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/mailbox"
)

// syncTimeout is how long one write of the firewall may take.
const syncTimeout = 10 * time.Second

// A write is one write of the firewall, as the loop sees it.
type write struct {
	state   firewall.State
	putOff  context.CancelFunc // puts the rest of it off, unless that has begun
	late    bool               // it has taken too long, and counts as failed
	inForce <-chan struct{}
	done    <-chan outcome
	outcome      // once it is done
	known   bool // to be in force
	same    bool // as the last one: it writes only what somebody has undone
	beside  bool // the loop does not wait for it
	unbinds bool // it takes bindings away
	again   bool // another try follows at once if it fails
}

// An outcome is what came of a write.
type outcome struct {
	writes int
	err    error
}

// sync makes the firewall hold state, and reports whether that is in force. The rest of the write takes away what nobody needs any
// more. It goes on beside the loop, because iptables-legacy takes tens of milliseconds for it.
//
// The loop believes that the firewall holds what it was made to hold until a check is due, so it starts a process without reading all
// rules before. A change of guarded ports alone waits for the next write: guarded or not, a proxy grants no connection to an AppVM
// that is not bound to it.
func (l *loop) sync(state firewall.State, now time.Time) bool {
	if l.holds != nil {
		same := state
		if same.Guarded = l.holds.Guarded; l.holds.Equal(same) {
			if l.writing == nil {
				l.release(state.Bindings)
			}
			return true
		}
	}
	l.completeWrite(now)
	l.holds = nil
	if l.guard.failed.Equal(now) {
		return false // it is tried again later
	}
	w := l.begin(state, nil)
	inForce := w.inForce
	if l.last != nil && l.last.Equal(state) {
		inForce = nil // the backend may say so before it has looked whether somebody has undone that
	}
	l.await(w, inForce, now)
	if l.writing == w {
		l.stands(w, now)
	}
	return l.holds != nil
}

// begin starts a write beside the loop, and calls after when that is done; nil for nothing. Nobody waits for after.
func (l *loop) begin(state firewall.State, after func()) *write {
	ctx, cancel := context.WithTimeout(context.Background(), l.writeTimeout)
	inForce, done := make(chan struct{}), make(chan outcome, 1)
	w := &write{state: state, putOff: cancel, inForce: inForce, done: done}
	l.writing = w
	over := func(l *loop) {
		if l.writing == w {
			l.completeWrite(time.Now())
		}
	}
	beside := writer{l.Firewall, l.Events.Log, l.mail, state, inForce, done, over, after}
	l.running.Go(func() { beside.run(ctx, cancel) })
	return w
}

// A writer does one write, beside the loop.
type writer struct {
	firewall firewall.Backend
	log      *slog.Logger
	mail     *box
	state    firewall.State
	inForce  chan struct{}
	done     chan<- outcome // takes one without waiting
	over     func(*loop)
	after    func()
}

func (w writer) run(ctx context.Context, cancel context.CancelFunc) {
	defer cancel()
	var came outcome
	if came.writes, came.err = w.firewall.Sync(ctx, w.state, func() { close(w.inForce) }); came.writes > 0 {
		w.log.Debug("firewall written", "writes", came.writes)
	}
	w.mail.Post(w.over) // before the loop, if it waits, can go on: so there is one more round in any case
	w.done <- came
	if w.after != nil {
		w.after()
	}
}

// await waits until a write is in force, or until it is done. If inForce is nil, it waits for the second alone.
func (l *loop) await(w *write, inForce <-chan struct{}, now time.Time) {
	first := l.patience
	if w.beside { // it has begun before
		first = max(time.Until(l.agenda[agenda.Late]), 1)
	}
	tick := time.NewTicker(first)
	defer tick.Stop()
	for ending := l.life.Done(); ; {
		select {
		case <-inForce:
			return
		case w.outcome = <-w.done:
			l.conclude(w, now)
			return
		case <-ending:
			defer time.AfterFunc(endingTimeout, w.putOff).Stop()
			ending = nil
		case <-tick.C:
			tick.Reset(checkTimeout)
			if w.beside || l.guard.suspect || l.mail.Pending(mailbox.Firewall) {
				l.giveUp(w)
				inForce = nil
			}
		}
	}
}

// completeWrite puts off the rest of the write under way, if there is one, and draws the conclusions. The next write does that rest.
// A check is not put off but waited for.
func (l *loop) completeWrite(now time.Time) {
	switch w := l.writing; {
	case w == nil:
	case w.beside:
		l.await(w, nil, now)
	default:
		w.putOff()
		w.outcome = <-w.done
		l.conclude(w, now)
	}
}

// conclude draws the conclusions from a write that is done.
func (l *loop) conclude(w *write, now time.Time) {
	l.writing = nil
	defer l.answerAll(now)
	if w.beside {
		defer l.noteChecked(w, now)
	}
	switch {
	case errors.Is(w.err, context.Canceled) && !w.late:
		select {
		case <-w.inForce:
			l.stands(w, now)
		default: // the loop has to end
		}
		l.holds, l.last = nil, nil
	case w.err != nil && !errors.Is(w.err, firewall.ErrShut):
		l.holds = nil
		l.notWritten(w, now)
	default:
		l.stands(w, now)
		l.release(w.state.Bindings)
		if retry := l.troubles.Note(l.Events, now, control.WayToProxies, w.err); w.err != nil {
			l.agenda.By(agenda.Check, retry)
		}
	}
}

// stands follows a write that succeeded: the fence stands, unless somebody undoes it as often as it is restored.
func (l *loop) stands(w *write, now time.Time) {
	g := &l.guard
	l.holds, l.last = &w.state, &w.state
	g.doubt = false
	g.suspect = g.suspect && w.known // somebody may have changed it since
	w.known = true
	g.Written(now, w.same, w.same && w.writes > 0)
	if again, undone := g.Undone(now); undone {
		g.suspect = true
		l.agenda.By(agenda.Check, again)
		l.troubles.Note(l.Events, now, "firewall", errUndone)
		l.unfence(errUndone)
		return
	}
	l.troubles.Note(l.Events, now, "firewall", nil)
	if g.unfenced != nil && l.knowsForward() {
		g.unfenced, l.changed = nil, true
	}
}

// notWritten follows a write that failed.
func (l *loop) notWritten(w *write, now time.Time) {
	g, err := &l.guard, w.err
	if g.suspect && !w.again && !errors.Is(err, firewall.ErrUnfenced) {
		err = fmt.Errorf("%w, for all that is known: %w", firewall.ErrUnfenced, err)
	}
	if errors.Is(err, firewall.ErrUnfenced) {
		g.suspect = true
		l.unfence(err)
	}
	if w.again {
		return
	}
	g.failed = now
	l.agenda.At(agenda.Check, l.troubles.Note(l.Events, now, "firewall", err))
	if g.unfenced != nil {
		l.agenda.By(agenda.Check, now.Add(fenceRetryInterval))
	}
}
