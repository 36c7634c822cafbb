package main

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	ordersMax    = 4           // presses of buttons that wait until dom0 has decided about earlier ones
	saveInterval = time.Second // between two records
)

// An order is a press of a button. An answer is what became of it.
type (
	order struct {
		targets []target
		always  bool
	}
	answer struct {
		order
		permitted []target
		lines     []string // for a person
	}
)

// notifier shows refused hosts on the desktop. All of it but calls and the stream belongs to one goroutine.
type notifier struct {
	log     *slog.Logger
	desktop *desktop
	board   *board
	orders  chan order
	record  string // path; empty: none
	changed bool   // since the record was saved
	saved   time.Time

	away time.Time // until when the desktop shows nothing, because it did not
	told bool      // that it does not
}

// runNotify follows the refusals and shows them until the context ends.
func runNotify(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := openDesktop(ctx)
	if err != nil {
		return errors.New("the session has no D-Bus: " + err.Error())
	}
	defer d.conn.Close()
	n := &notifier{log: log, desktop: d, board: newBoard(), orders: make(chan order, ordersMax), record: recordPath()}
	refused, answers := make(chan refusal), make(chan answer)
	go follow(ctx, log, refused)
	go n.carryOut(ctx, answers)
	timer := time.NewTimer(0)
	for {
		select {
		case r := <-refused:
			n.board.refuse(r, time.Now())
			n.changed = true
		case s, ok := <-d.events:
			if !ok {
				return errors.New("the session's D-Bus has ended")
			}
			if e, ok := d.eventOf(s); ok {
				n.heed(e)
			}
		case a := <-answers:
			n.tell(a)
		case <-timer.C:
		case <-d.conn.Context().Done():
			if ctx.Err() == nil {
				return errors.New("the session's D-Bus has ended")
			}
			return nil
		case <-ctx.Done():
			return nil
		}
		timer.Reset(n.settle(time.Now()))
	}
}

// settle draws and saves what is due, and returns when to do so again.
func (n *notifier) settle(now time.Time) time.Duration {
	var again time.Time
	if now.Before(n.away) {
		again = n.away
	} else {
		var draws []draw
		draws, again = n.board.due(now)
		for _, d := range draws {
			id, err := n.desktop.show(d.replaces, d.title, d.lines, len(d.targets) > 0)
			if err != nil {
				n.board.undo(d, now)
				n.failed(err)
				again = n.away
				continue
			}
			n.told = false
			n.board.drawn(d, id)
		}
	}
	if at := n.saved.Add(saveInterval); n.changed && now.Before(at) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	} else if n.changed && n.record != "" {
		n.changed, n.saved = false, now
		if err := saveRecord(n.record, n.board.recent(now)); err != nil {
			n.log.Warn("vifproxy-unblock is not told what was refused", "error", err)
			n.record = ""
		}
	}
	if again.IsZero() {
		return seldom
	}
	return max(again.Sub(now), time.Millisecond)
}

// awayTime is how long a desktop that shows nothing is left alone, unless another one comes.
const awayTime = time.Minute

// failed takes note that the desktop shows nothing, and logs it once.
func (n *notifier) failed(err error) {
	n.away = time.Now().Add(awayTime)
	if !n.told {
		n.log.Warn("no notification can be shown; vifproxy-unblock lists what is refused", "error", err)
	}
	n.told = true
}

// say shows a notification that is about no refusal.
func (n *notifier) say(title string, lines []string) {
	if _, err := n.desktop.show(0, title, lines, false); err != nil {
		n.failed(err)
	}
}

// heed does what a person has asked for by a notification.
func (n *notifier) heed(e event) {
	switch {
	case e.restart:
		n.board.allClosed()
		if e.there {
			n.away = time.Time{}
		}
	case e.pressed == "":
		n.board.closed(e.id, e.byPerson, time.Now())
	default:
		targets := n.board.pressed(e.id)
		if targets == nil {
			return
		}
		select {
		case n.orders <- order{targets, e.pressed == keyAlways}:
		default:
			n.say("Too many hosts at once", []string{"Answer dom0's questions first."})
		}
	}
}

// carryOut calls the services that orders are for, one after the other, because dom0 asks about each.
func (n *notifier) carryOut(ctx context.Context, answers chan<- answer) {
	for {
		select {
		case o := <-n.orders:
			a := answer{order: o}
			for _, t := range o.targets {
				said, err := permit(ctx, t, o.always)
				if err != nil {
					a.lines = append(a.lines, err.Error())
					continue
				}
				a.permitted = append(a.permitted, t)
				if said == "" {
					said = t.String() + " is allowed."
				}
				a.lines = append(a.lines, said)
			}
			select {
			case answers <- a:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// tell shows what became of an order.
func (n *notifier) tell(a answer) {
	title := "Allowed: reload the page"
	if len(a.permitted) < len(a.targets) {
		title = "Not allowed"
		if len(a.permitted) > 0 {
			title = "Allowed in part"
		}
	}
	for _, t := range a.permitted {
		n.board.permitted(t)
		n.log.Info("allowed", "host", t.String(), "always", a.always)
	}
	n.changed = true
	n.say(title, a.lines)
}
