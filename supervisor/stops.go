package supervisor

import (
	"context"
	"fmt"
	"time"

	"vifproxy/control"
	"vifproxy/internal/agenda"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/stops"
	"vifproxy/internal/unanswered"
)

// keepTimeout is how long a verb waits for the record of stops to be written. The AppVMs are stopped before that.
const keepTimeout = 5 * time.Second

const theStops = "record of stopped AppVMs" // as the troubles call it

// readStops reads what was stopped before the daemon began. As long as that cannot be read, all AppVMs are stopped: "could not read" is
// never "there is nothing". What a person says meanwhile is a new record, and the old one is not read again. Whom the daemon itself holds
// meanwhile is held by the record that is read at last, too.
func (l *loop) readStops(now time.Time) {
	record, err := l.Read.Stops()
	if err != nil {
		record = stops.Record{All: now, Unread: true}
	}
	held := record.HoldAll(l.inputs.Stops)
	l.inputs.Stops = record
	l.agenda.At(agenda.Stops, l.troubles.NoteAs(events.Impaired, l.Events, now, theStops, err))
	if held {
		l.keep()
	}
}

// keep writes the record of stops, beside the loop, and returns a channel for the outcome. It writes nothing over a record that has still to
// be read.
func (l *loop) keep() <-chan error {
	outcome := make(chan error, 1)
	if l.inputs.Stops.Unread {
		outcome <- nil
		return outcome
	}
	l.keeping.told = append(l.keeping.told, outcome)
	l.writeStops()
	return outcome
}

// writeStops writes the record. If a write is under way, it writes once more when that is over.
func (l *loop) writeStops() {
	if l.keeping.busy {
		return
	}
	l.keeping.busy = true
	told := l.keeping.told
	l.keeping.told = nil
	go writeStops(l.mail, l.WriteStops, l.inputs.Stops.Clone(), func(l *loop, err error) { // Run does not wait for it: a dead file system would hold up the end
		l.keeping.busy = false
		l.agenda.At(agenda.Stops, l.troubles.NoteAs(events.Impaired, l.Events, time.Now(), theStops, err))
		for _, outcome := range told {
			outcome <- err
		}
		if len(l.keeping.told) > 0 {
			l.writeStops()
		}
	})
}

// writeStops writes the record, beside the loop.
func writeStops(mail *box, write func(stops.Record) error, record stops.Record, then func(*loop, error)) {
	err := write(record)
	mail.Post(func(l *loop) { then(l, err) })
}

// tryStops retries what failed: to read the record, or to write it.
func (l *loop) tryStops(now time.Time) {
	if !l.inputs.Stops.Unread {
		l.writeStops()
		return
	}
	l.readStops(now)
	l.changed = true
}

// kept waits until the record is written. If it is not, the AppVMs are stopped all the same, but a restart would undo that.
func (s *Supervisor) kept(ctx context.Context, outcome <-chan error) error {
	over := make(chan struct{})
	defer unanswered.AfterFunc(keepTimeout, func() { close(over) }).Stop()
	var err error
	select {
	case err = <-outcome:
	case <-over:
		err = fmt.Errorf("the file system does not answer for %v", keepTimeout)
		s.mail.Post(func(l *loop) {
			if l.keeping.busy {
				l.troubles.NoteAs(events.Impaired, l.Events, time.Now(), theStops, err)
			}
		})
	case <-ctx.Done():
		return ctx.Err()
	case <-s.mail.Done():
		return mailbox.ErrClosed
	}
	if err == nil {
		return nil
	}
	return &control.DaemonError{Fault: control.Internal, Message: fmt.Sprintf("it is done, but will not outlive a restart of vifproxyd: %v"+
		" (vifproxyd tries again by itself; `vifproxyctl show` says when that is over)", err)}
}
