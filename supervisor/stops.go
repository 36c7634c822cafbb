package supervisor

import (
	"context"
	"fmt"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/stops"
)

// keepTimeout is how long a verb waits for the record of stops to be written. The AppVMs are stopped before that.
const keepTimeout = 5 * time.Second

// theStops is what the troubles call the record.
const theStops = "record of stopped AppVMs"

// readStops learns what was stopped before the daemon began. As long as that cannot be read everybody is stopped: "could
// not read" is never "there is nothing". What a person says meanwhile is a new record, and the old one is not asked any more.
func (s *Supervisor) readStops(now time.Time) {
	record, err := s.ReadStops()
	if err != nil {
		record = stops.Record{All: now, Unread: true}
	}
	s.inputs.Stops = record
	s.agenda.at(dueStops, s.troubles.noteAs(events.Impaired, s.Events, now, theStops, err))
}

// keep has the record of stops written, beside the loop, and returns where the outcome will be said.
func (s *Supervisor) keep() <-chan error {
	s.inputs.Stops.Unread = false // what it says now is what a person wants
	outcome := make(chan error, 1)
	s.keeping.told = append(s.keeping.told, outcome)
	s.writeStops()
	return outcome
}

// writeStops writes the record unless that is under way; then once more when it is over.
func (s *Supervisor) writeStops() {
	if s.keeping.busy {
		return
	}
	s.keeping.busy = true
	record, told := s.inputs.Stops.Clone(), s.keeping.told
	s.keeping.told = nil
	go func() { // not among running: a dead file system would hold up the end
		err := s.WriteStops(record)
		s.post(func() {
			s.keeping.busy = false
			s.agenda.at(dueStops, s.troubles.noteAs(events.Impaired, s.Events, time.Now(), theStops, err))
			for _, outcome := range told {
				outcome <- err
			}
			if len(s.keeping.told) > 0 {
				s.writeStops()
			}
		})
	}()
}

// tryStops tries once more what failed: to read the record, or to write it.
func (s *Supervisor) tryStops(now time.Time) {
	if !s.inputs.Stops.Unread {
		s.writeStops()
		return
	}
	s.readStops(now)
	s.changed = true
}

// kept waits until the record is written. If it is not, what was done is done, but a restart would undo it.
func (s *Supervisor) kept(ctx context.Context, outcome <-chan error) error {
	timeout := time.NewTimer(keepTimeout)
	defer timeout.Stop()
	var err error
	select {
	case err = <-outcome:
	case <-timeout.C:
		err = fmt.Errorf("the file system does not answer for %v", keepTimeout)
		s.post(func() {
			if s.keeping.busy {
				s.troubles.noteAs(events.Impaired, s.Events, time.Now(), theStops, err)
			}
		})
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errStopping
	}
	if err == nil {
		return nil
	}
	return &control.DaemonError{Code: 500, Message: fmt.Sprintf("it is done, but will not outlive a restart of vifproxyd: %v"+
		" (vifproxyd tries again by itself; `vifproxyctl show` says when that is over)", err)}
}
