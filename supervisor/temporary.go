package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/internal/agenda"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/rules"
)

// Allow lets an AppVM reach hosts for a time, or takes that back. No file has it, so it ends by itself, with the rule file, and with the
// daemon.
func (s *Supervisor) Allow(ctx context.Context, t control.Temporary) (control.Status, error) {
	var back []string
	status, err := s.change(ctx, func(l *loop) ([]netip.Addr, error) {
		d, err := l.find(t.Name)
		if err != nil {
			return nil, err
		}
		if d.Policy == nil {
			return nil, &control.DaemonError{Fault: control.Conflict, Message: d.Err.Error()}
		}
		hosts, err := rules.ParseHosts(t.Hosts)
		if err != nil {
			return nil, &control.DaemonError{Fault: control.Invalid, Message: err.Error()}
		}
		if err := d.Policy.MayAllow(hosts...); err != nil && t.Seconds > 0 {
			return nil, &control.DaemonError{Fault: control.Conflict, Message: err.Error()}
		}
		who := d.Identity()
		if n := l.inputs.Temporary.Ports(who, hosts); n > rules.PortsMax && t.Seconds > 0 {
			return nil, &control.DaemonError{Fault: control.Conflict, Message: fmt.Sprintf("%s would have %d different ports for a"+
				" time, more than %d", d.Name, n, rules.PortsMax)}
		}
		back = l.allow(who, hosts, t, time.Now())
		return nil, nil
	})
	if err == nil {
		status.TakenBack = back
	}
	return status, err
}

// allow lets an AppVM reach hosts for a time, or takes them back if that is 0. It returns those that it has taken back.
func (l *loop) allow(who plan.Identity, hosts []rules.Host, t control.Temporary, now time.Time) (back []string) {
	about := events.About{VM: who.Name, IP: who.Addr, Seconds: t.Seconds}
	if t.Asked {
		about.Why = "the AppVM asked for it"
	}
	for _, host := range hosts {
		if t.Seconds > 0 {
			l.inputs.Temporary.Allow(who, host, l.Clock.Now()+time.Duration(t.Seconds)*time.Second, !t.Asked)
			about.Host = host.String()
			l.Events.Emit(events.Allowed, about)
			continue
		}
		for _, there := range l.inputs.Temporary.TakeBack(who, host) {
			l.allowedNoMore(who, there, "taken back")
			back = append(back, there.String())
		}
	}
	clear(l.cache)
	l.expire(now)
	return back
}

func (l *loop) allowedNoMore(who plan.Identity, host rules.Host, why string) {
	l.Events.Emit(events.AllowedNoMore, events.About{VM: who.Name, IP: who.Addr, Host: host.String(), Why: why})
}

// expire takes back what is over, and reports whether there was any. Time counts while the machine is suspended; setting the clock,
// forward or back, changes nothing.
func (l *loop) expire(now time.Time) (any bool) {
	l.agenda.At(agenda.Expiry, time.Time{})
	boot := l.Clock.Now()
	next := l.inputs.Temporary.Expire(boot, func(who plan.Identity, host rules.Host) {
		l.allowedNoMore(who, host, "its time is over")
		any = true
	})
	lesson, over := l.inputs.Lessons.Expire(boot)
	any = any || over
	if next == 0 || lesson > 0 && lesson < next {
		next = lesson
	}
	if next > 0 {
		l.agenda.At(agenda.Expiry, now.Add(next-boot))
		l.Clock.WakeAt(next)
	}
	if any {
		clear(l.cache)
	}
	return any
}

// find returns what should be there for the AppVM of this name.
func (l *loop) find(name string) (*plan.Desired, error) {
	var known []string
	for _, d := range l.want {
		if d.Name == name {
			return d, nil
		}
		known = append(known, d.Name)
	}
	return nil, &control.UnknownError{Names: []string{name}, Known: known}
}
