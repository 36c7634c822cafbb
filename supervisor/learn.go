package supervisor

import (
	"context"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/lessons"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
)

// Learn lets an AppVM reach every public host by its name for a time, and sends what it reaches. No file has the lesson, so it ends with
// the daemon.
func (s *Supervisor) Learn(ctx context.Context, r control.LearnRequest, send func(control.Lesson) error) error {
	if r.Seconds == 0 {
		_, err := s.change(ctx, func(l *loop) ([]netip.Addr, error) { return l.stopLesson(r.Name) })
		return err
	}
	record := lessons.NewRecord()
	var began *plan.Lesson // the loop's
	// Posted behind the letter that begins the lesson, so it ends also if ctx ends before that is read.
	defer s.mail.Post(func(l *loop) {
		if began != nil {
			l.inputs.Lessons.End(began, "the client that asked for it has gone")
			l.changed = true
		}
	})
	var list *policy.Policy
	_, err := s.change(ctx, func(l *loop) (of []netip.Addr, err error) {
		if began, list, err = l.beginLesson(r, record); err == nil {
			of = []netip.Addr{list.Addr}
		}
		return of, err
	})
	if err == nil {
		err = send(control.Lesson{Event: control.LessonBegins, VM: r.Name, Seconds: r.Seconds})
	}
	if err != nil {
		return err
	}
	return record.Follow(ctx, list.Matcher(), send)
}

// stopLesson ends the lesson of an AppVM, if there is one.
func (l *loop) stopLesson(name string) ([]netip.Addr, error) {
	d, err := l.find(name)
	if err != nil {
		return nil, err
	}
	l.inputs.Lessons.Stop(d.Identity())
	return []netip.Addr{d.Addr}, nil
}

// beginLesson begins a lesson, and returns the policy of the list with it.
func (l *loop) beginLesson(r control.LearnRequest, record *lessons.Record) (*plan.Lesson, *policy.Policy, error) {
	d, err := l.find(r.Name)
	if err != nil {
		return nil, nil, err
	}
	about := events.About{VM: d.Name, IP: d.Addr, Seconds: r.Seconds}
	lesson, why := l.inputs.Lessons.Begin(d, l.Clock.Now()+time.Duration(r.Seconds)*time.Second)
	if why != "" {
		return nil, nil, &control.DaemonError{Fault: control.Conflict, Message: d.Name + " cannot learn: " + why}
	}
	stop := l.Events.OnVisit(d.Addr, func(v events.Visit) { record.Saw(v.Host, v.Port) })
	lesson.Over = func(why string) {
		stop()
		record.End(why)
		l.Events.Emit(events.LearningOver, events.About{VM: about.VM, IP: about.IP, Why: why})
	}
	l.Events.Emit(events.Learning, about)
	l.expire(time.Now())
	return lesson, d.Policy, nil
}

// whyNot returns why a policy does not run, or nil.
func (l *loop) whyNot(p *policy.Policy) error {
	if vm := l.vms[p.Addr]; vm != nil {
		return vm.failures[p.Key()].Err
	}
	return nil
}
