package supervisor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/rules"
)

// Allow lets an AppVM reach hosts for a time, or takes back what it let. No file knows of it: it ends by itself, with
// the rule file, and with the daemon.
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
		if !d.Policy.Config.Filter.AllowsByLine() && t.Seconds > 0 {
			return nil, &control.DaemonError{Fault: control.Conflict, Message: "the template `config` says FilterDefaultDeny No, or has" +
				" FilterURLs: a host cannot be allowed by a line with its name"}
		}
		var hosts []rules.Host
		for _, text := range t.Hosts {
			host, err := rules.ParseEntry(text)
			if err != nil {
				host, err = rules.ParseHost(text)
			}
			if err != nil {
				return nil, &control.DaemonError{Fault: control.Invalid, Message: err.Error()}
			}
			hosts = append(hosts, host)
		}
		who := d.Identity()
		if n := l.temporaryPorts(who, hosts); n > rules.PortsMax && t.Seconds > 0 {
			return nil, &control.DaemonError{Fault: control.Conflict, Message: fmt.Sprintf("%s would have %d different ports for a"+
				" time, more than %d", d.Name, n, rules.PortsMax)}
		}
		back = l.allow(who, hosts, time.Duration(t.Seconds)*time.Second, time.Now())
		return nil, nil
	})
	if err == nil {
		status.TakenBack = back
	}
	return status, err
}

// temporaryPorts returns how many different ports hosts open for a time, with those that are open already.
func (l *loop) temporaryPorts(who plan.Identity, more []rules.Host) int {
	ports := map[uint16]bool{}
	for _, host := range slices.AppendSeq(slices.Clone(more), maps.Keys(l.inputs.Temporary[who])) {
		ports[host.Port] = true
	}
	delete(ports, 0)
	return len(ports)
}

// allow lets hosts pass for a time, or takes them back if that is 0: a host without a port with all its ports. It
// returns those that it has taken back.
func (l *loop) allow(who plan.Identity, hosts []rules.Host, how time.Duration, now time.Time) (back []string) {
	until := l.inputs.Temporary[who]
	if until == nil {
		until = map[rules.Host]time.Duration{}
		l.inputs.Temporary[who] = until
	}
	for _, host := range hosts {
		if how > 0 {
			until[host] = l.BootTime() + how
			l.Events.Emit(events.Allowed, events.About{VM: who.Name, IP: who.Addr, Host: host.String(), Seconds: int(how.Seconds())})
			continue
		}
		for there := range until {
			if there == host || host.Port == 0 && there.WithoutPort() == host {
				delete(until, there)
				l.Events.Emit(events.AllowedNoMore, events.About{
					VM: who.Name, IP: who.Addr, Host: there.String(), Why: "taken back",
				})
				back = append(back, there.String())
			}
		}
	}
	clear(l.cache)
	l.expire(now)
	return back
}

// expire takes back what is over, and reports whether there was any. The time that the machine is suspended counts; that
// somebody sets the clock, forward or back, does not.
func (l *loop) expire(now time.Time) (any bool) {
	l.agenda.at(dueExpiry, time.Time{})
	boot, next := l.BootTime(), time.Duration(0)
	for who, hosts := range l.inputs.Temporary {
		for host, until := range hosts {
			if until <= boot {
				l.Events.Emit(events.AllowedNoMore, events.About{
					VM: who.Name, IP: who.Addr, Host: host.String(), Why: "its time is over",
				})
				delete(hosts, host)
				any = true
			} else if next == 0 || until < next {
				next = until
			}
		}
		if len(hosts) == 0 {
			delete(l.inputs.Temporary, who)
		}
	}
	if next > 0 {
		l.agenda.at(dueExpiry, now.Add(next-boot))
		l.WakeAt(next)
	}
	if any {
		clear(l.cache)
	}
	return any
}

// find is what should be there for the AppVM of this name.
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
