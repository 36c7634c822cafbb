package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vifproxy/control"
	"vifproxy/internal/simulate/model"
)

// This file is what people ask of the daemon in the chaos run. Verbs run beside the next actions; what becomes of them
// depends on those.

func (c *chaos) hangUp() string {
	if !c.court.Down() && c.daemon.hasTold("READY=1") {
		c.must(c.daemon.cmd.Process.Signal(syscall.SIGHUP))
	}
	return ""
}

func (c *chaos) restartVerb() string {
	vm := c.one()
	name := cmp.Or(vm.Shown(), c.names[vm])
	c.court.change(func(m *model.Model) { m.MayHold(vm, false) })
	c.ask(func(ctx context.Context) {
		c.letGo(ctx, vm)                   //nolint:errcheck // see above
		c.ctl.Restart(ctx, []string{name}) //nolint:errcheck // see above
	})
	return name
}

// letGo starts an AppVM under all the names that it may have been stopped under: what a person has stopped by one name stays
// so until it is started by that.
func (c *chaos) letGo(ctx context.Context, vm *appVM) error {
	for _, name := range c.namesOf(vm) {
		if _, err := c.ctl.Start(ctx, []string{name}); err != nil && !isUnknown(err) {
			return err
		}
	}
	return nil
}

func (c *chaos) killAllVerb() string {
	c.court.change(func(m *model.Model) {
		m.Disturb()
		for _, vm := range m.VMs {
			m.MayHold(vm, false)
		}
	})
	c.ask(func(ctx context.Context) { c.ctl.KillAll(ctx, true) }) //nolint:errcheck // see above
	return ""
}

// holdVerb has an AppVM held, or let go. Often it waits for the answer, from which on what was asked for is so.
func (c *chaos) holdVerb(hold bool) string {
	vm := c.one()
	names, wait := []string{cmp.Or(vm.Shown(), c.names[vm])}, c.rng.IntN(3) > 0
	verb := func(ctx context.Context) error { return c.letGo(ctx, vm) }
	if hold {
		verb = func(ctx context.Context) error {
			_, err := c.ctl.Stop(ctx, names)
			return err
		}
	}
	if wait {
		c.verbs.Wait() // what they did is done before
	}
	before := vm.HeldNow()
	c.court.change(func(m *model.Model) { m.MayHold(vm, hold) })
	if !wait {
		c.ask(func(ctx context.Context) { verb(ctx) }) //nolint:errcheck // see above
		return names[0]
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	err := verb(ctx)
	c.court.change(func(m *model.Model) {
		switch {
		case err == nil:
			m.Holds(vm, hold)
		case isUnknown(err): // the daemon has not read yet that the file has this name
			m.Holds(vm, before...)
		}
	})
	if err != nil {
		return fmt.Sprintf("%s %.60v", names[0], err)
	}
	c.counts["verbs that held or let go"]++
	return names[0] + " waits"
}

// isUnknown reports whether the daemon knows none of a name.
func isUnknown(err error) bool {
	var answer *control.DaemonError
	return errors.As(err, &answer) && answer.Fault == control.Unknown
}

func (c *chaos) ask(verb func(context.Context)) {
	c.verbs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		verb(ctx)
	})
}

// learnVerb has an AppVM learn for a moment. The lesson ends by its time, by its client, or by what happens meanwhile.
func (c *chaos) learnVerb() string {
	vm := c.one()
	name := cmp.Or(vm.Shown(), c.names[vm])
	request := control.LearnRequest{Name: name, Seconds: 1 + c.rng.IntN(3)}
	stays := time.Duration(c.rng.IntN(1500)) * time.Millisecond
	c.court.change(func(m *model.Model) { m.Learns(vm, true) })
	c.ask(func(ctx context.Context) {
		bounded, hangUp := context.WithTimeout(ctx, stays)
		defer hangUp()
		begun := false
		err := c.ctl.Learn(bounded, request, func(control.Lesson) error {
			begun = true
			return nil
		})
		var refused *control.DaemonError
		if !begun && !errors.As(err, &refused) || c.ctl.EndLesson(ctx, name) != nil {
			return // it may yet begin; it is over when all is settled
		}
		c.court.change(func(m *model.Model) {
			m.Learns(vm, false)
			if begun {
				c.learnt++
			}
		})
	})
	return fmt.Sprintf("%s for %v", name, stays)
}
