package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"syscall"

	"vifproxy/control"
)

// This file is what people ask of the daemon in the chaos run. Verbs run beside the next actions; what becomes of them
// depends on those.

func (c *chaos) hangUp() string {
	if !c.court.down && c.daemon.hasTold("READY=1") {
		c.must(c.daemon.cmd.Process.Signal(syscall.SIGHUP))
	}
	return ""
}

func (c *chaos) restartVerb() string {
	vm := c.one()
	name := c.name(vm)
	c.court.change(func(*model) { vm.mayHold(false) })
	c.ask(func(ctx context.Context) { c.ctl.Restart(ctx, []string{name}) }) //nolint:errcheck // see above
	return name
}

func (c *chaos) killAllVerb() string {
	c.court.change(func(m *model) {
		m.disturb()
		for _, vm := range m.vms {
			vm.mayHold(false)
		}
	})
	c.ask(func(ctx context.Context) { c.ctl.KillAll(ctx, true) }) //nolint:errcheck // see above
	return ""
}

// holdVerb has an AppVM held, or let go. Often it waits for the answer, from which on what was asked for is so.
func (c *chaos) holdVerb(hold bool) string {
	vm := c.one()
	names, wait := []string{c.name(vm)}, c.rng.IntN(3) > 0
	verb := c.ctl.Start
	if hold {
		verb = c.ctl.Stop
	}
	if wait {
		c.verbs.Wait() // what they did is done before
	}
	before := maps.Clone(vm.held)
	c.court.change(func(*model) { vm.mayHold(hold) })
	if !wait {
		c.ask(func(ctx context.Context) { verb(ctx, names) }) //nolint:errcheck // see above
		return names[0]
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	_, err := verb(ctx, names)
	c.court.change(func(*model) {
		switch unknown := (*control.UnknownError)(nil); {
		case err == nil:
			vm.holds(hold)
		case errors.As(err, &unknown): // the daemon has not read yet that the file has this name
			vm.held = before
		}
	})
	if err != nil {
		return fmt.Sprintf("%s %.60v", names[0], err)
	}
	c.counts["verbs that held or let go"]++
	return names[0] + " waits"
}

func (c *chaos) ask(verb func(context.Context)) {
	c.verbs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		verb(ctx)
	})
}
