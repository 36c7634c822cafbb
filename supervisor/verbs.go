package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/stops"
)

// Status returns how things stand now. It waits for the loop, which is never busy for long, and for a write of the firewall
// that is under way, because the packets that the fence has refused cannot be counted meanwhile.
func (s *Supervisor) Status(ctx context.Context) (control.Status, error) {
	return mailbox.AskLater(ctx, s.mail, func(l *loop, reply func(control.Status, error)) {
		l.answerSoon(func(status control.Status) { reply(status, nil) })
	})
}

// AppVMs returns the same without these counters, and waits for the loop alone.
func (s *Supervisor) AppVMs(ctx context.Context) (control.Status, error) {
	return mailbox.Ask(ctx, s.mail, func(l *loop) (control.Status, error) { return l.statusNow(time.Now()), nil })
}

// Update reads everything again and ends all waiting periods. It returns when the processes that this starts have come up, ended or
// failed. It waits for a file whose last line has no end. What a person has stopped stays so.
func (s *Supervisor) Update(ctx context.Context) (control.Status, error) {
	return s.wait(ctx, func(*loop) (waiter, error) { return waiter{files: true}, nil })
}

// Start lets stopped AppVMs have their proxies again, whichever verb has stopped them. An AppVM may have no rule file now.
func (s *Supervisor) Start(ctx context.Context, names []string) (control.Status, error) {
	return s.changeNames(ctx, names, func(l *loop, who plan.Identity) {
		l.inputs.Stops.Start(who.Name, who.Addr, time.Now())
	})
}

// Stop ends the proxies of AppVMs until Start, Restart, or KillAll with a restart.
func (s *Supervisor) Stop(ctx context.Context, names []string) (control.Status, error) {
	return s.changeNames(ctx, names, func(l *loop, who plan.Identity) {
		l.inputs.Stops.Stop(who.Name, who.Addr, time.Now())
	})
}

// Restart replaces the processes of AppVMs by new ones, without a gap.
func (s *Supervisor) Restart(ctx context.Context, names []string) (control.Status, error) {
	return s.changeNames(ctx, names, func(l *loop, who plan.Identity) {
		l.inputs.Stops.Start(who.Name, who.Addr, time.Now())
		l.inputs.Restarts[who.Addr]++
	})
}

// KillAll ends all our proxies at once, with their connections. Then no AppVM gets one until Start, not even one that has no rule file
// yet. With restart, all are started again, those too that were stopped one by one: neither a caller that goes away nor the end of the
// daemon leaves them stopped.
func (s *Supervisor) KillAll(ctx context.Context, restart bool) (control.Status, error) {
	if !restart {
		return s.changeStops(ctx, func(l *loop) ([]netip.Addr, error) {
			l.inputs.Stops = stops.Record{All: time.Now()}
			return nil, nil
		})
	}
	ctx = context.WithoutCancel(ctx)
	var outcome <-chan error
	status, err := s.change(ctx, func(l *loop) ([]netip.Addr, error) {
		l.inputs.Stops, l.inputs.KillAlls = stops.Record{}, l.inputs.KillAlls+1
		outcome = l.keep()
		return nil, nil
	})
	if err != nil {
		return status, err
	}
	cut := status.Cut
	status, err = s.change(ctx, func(l *loop) ([]netip.Addr, error) {
		l.inputs.KillAlls--
		return nil, nil
	})
	status.Cut += cut
	return status, cmp.Or(err, s.kept(ctx, outcome))
}

// Reload is Update for SIGHUP, and says so to systemd.
func (s *Supervisor) Reload(ctx context.Context) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	s.config.notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)) // sd_notify(3), Type=notify-reload
	_, err := s.change(ctx, func(*loop) ([]netip.Addr, error) { return nil, nil })
	s.config.notify("READY=1")
	return err
}

// Denied returns what the named AppVMs, or all, were refused since then.
func (s *Supervisor) Denied(ctx context.Context, names []string, since time.Time) ([]events.Denied, error) {
	vms, err := s.known(ctx, names)
	if err != nil {
		return nil, err
	}
	all := []events.Denied{}
	for _, vm := range vms {
		if !vm.Addr.IsValid() || len(names) > 0 && !slices.Contains(names, vm.Name) {
			continue // a refused rule file may have no address
		}
		d := events.Denied{VM: vm.Name, IP: vm.Addr.String()}
		d.Hosts, d.Forgotten = s.config.Events.DeniedTo(vm.Addr, since)
		all = append(all, d)
	}
	events.Bound(all)
	return all, nil
}

// Review returns which lines of the lists of the named AppVMs, or of all, their requests use.
func (s *Supervisor) Review(ctx context.Context, names []string) ([]control.ListUse, error) {
	vms, err := s.known(ctx, names)
	if err != nil {
		return nil, err
	}
	return s.config.Uses.Of(slices.DeleteFunc(vms, func(vm plan.Identity) bool { return len(names) > 0 && !slices.Contains(names, vm.Name) })), nil
}

// Watch sends what happens; see Events.Watch. Without its error, an unknown name would wait forever.
func (s *Supervisor) Watch(ctx context.Context, names []string, send func(events.Event) error) error {
	if _, err := s.known(ctx, names); err != nil {
		return err
	}
	return s.config.Events.Watch(ctx, names, send)
}

// known returns the AppVMs that have rule files, as `show` has them. Its error says which names are not among these.
func (s *Supervisor) known(ctx context.Context, names []string) ([]plan.Identity, error) {
	return mailbox.Ask(ctx, s.mail, func(l *loop) (all []plan.Identity, err error) {
		var known []string
		for _, d := range l.want {
			all, known = append(all, d.Identity()), append(known, d.Name)
		}
		return all, control.AllKnown(names, known)
	})
}

// changeNames changes what is stopped for the AppVMs of these names.
func (s *Supervisor) changeNames(ctx context.Context, names []string, change func(*loop, plan.Identity)) (control.Status, error) {
	return s.changeStops(ctx, func(l *loop) ([]netip.Addr, error) {
		found, addrs, known := l.inputs.Named(l.want, names)
		if err := control.AllKnown(names, known); err != nil {
			return nil, err
		}
		for _, who := range found {
			change(l, who)
		}
		return addrs, nil
	})
}

// changeStops is change for what is stopped, and writes that to the record.
func (s *Supervisor) changeStops(ctx context.Context, change func(*loop) ([]netip.Addr, error)) (control.Status, error) {
	var outcome <-chan error
	status, err := s.change(ctx, func(l *loop) ([]netip.Addr, error) {
		of, err := change(l)
		if err == nil {
			outcome = l.keep()
		}
		return of, err
	})
	if err != nil {
		return status, err
	}
	return status, s.kept(ctx, outcome)
}

// change makes the loop make a change and read everything, and waits until that has settled for the AppVMs that the change returns; for
// all if it returns none.
func (s *Supervisor) change(ctx context.Context, change func(*loop) ([]netip.Addr, error)) (control.Status, error) {
	return s.wait(ctx, func(l *loop) (waiter, error) {
		of, err := change(l)
		return waiter{of: of}, err
	})
}

// wait does the same, and waits as the waiter that the change returns.
func (s *Supervisor) wait(ctx context.Context, change func(*loop) (waiter, error)) (control.Status, error) {
	return mailbox.AskLater(ctx, s.mail, func(l *loop, reply func(control.Status, error)) {
		w, err := change(l)
		if err != nil {
			reply(control.Status{}, err)
			return
		}
		for _, vm := range l.vms {
			vm.failures.Forgive()
		}
		w.reply = reply
		l.waiters = append(l.waiters, &w)
		l.mail.Wake(mailbox.Force)
	})
}
