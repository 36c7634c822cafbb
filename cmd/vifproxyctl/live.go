package main

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"vifproxy/control"
	"vifproxy/internal/live"
	"vifproxy/internal/screen"
	"vifproxy/internal/usage"
)

func liveVerb() verb {
	return verb{
		name: "live", options: plain(runLive), noJSON: ": show, denied and watch do",
		summary: "Show VMs and what is refused to them on one screen, with keys to allow it.",
		help: `The upper list has the VMs with a list: their state, what their vif moves in a second, and how many of
their requests were refused or failed. The lower list has what was refused or failed, newest first, and
last what browsers request without a page. Mark a row with the arrow keys; TAB goes to the other list.
    a     let the marked host pass for 10 minutes
    A     add the marked host to the list of its VM
    e     say why the marked host does not pass
    h     stop the proxy of the marked VM, or start it again
    r     let the lower list go on
    ?     show all keys
    q     quit

While a host is marked, the lower list stands still: no VM can move another host under the mark. Each key
that changes something first shows the command and what it would do, and waits for y.

live needs a terminal. It follows the size of the terminal, and shows without colours all that it shows with
them (NO_COLOR). If vifproxyd ends, live says so and waits until it is back.
`,
	}
}

// runLive shows what happens until a person has done with it.
func runLive(ctx context.Context, c *call) error {
	if err := screen.Usable("see `vifproxyctl watch`"); err != nil {
		return err
	}
	if _, err := c.client.AppVMs(ctx); err != nil {
		return err
	}
	following, cancel := context.WithCancel(ctx)
	changes := make(chan func())
	post := func(change func()) {
		select {
		case changes <- change:
		case <-following.Done():
		}
	}
	var work sync.WaitGroup
	defer work.Wait() // what was begun is done
	defer cancel()
	var m *live.Model
	m = live.New(func(command live.Command) {
		work.Go(func() {
			text, failed := c.capture(ctx, command)
			post(func() { m.Finished(command, text, failed) })
		})
	})
	work.Go(func() { live.Follow(following, c.client, m, post) })
	return screen.Show(following, m, changes)
}

// capture runs a command, and returns what it prints.
func (c *call) capture(ctx context.Context, command live.Command) (text string, failed bool) {
	var out bytes.Buffer
	sub := *c
	sub.stdout, sub.stderr, sub.json, sub.args = &out, &out, false, []string{command.VM}
	if command.Host != "" {
		sub.args = append(sub.args, command.Host)
	}
	var do action
	switch command.Verb {
	case "allow":
		o := grantOptions{dryRun: command.Try}
		if command.For > 0 {
			o.duration = usage.Length{Given: true, D: command.For, Typed: command.For.String()}
		}
		do = func(ctx context.Context, c *call) error { return runAllow(ctx, c, o) }
	case "explain":
		do = runExplain
	case "stop":
		do = change((*control.Client).Stop)
	case "start":
		do = change((*control.Client).Start)
	}
	err := do(ctx, &sub)
	if err != nil && !errors.Is(err, errTrouble) {
		complain(&out, err.Error())
	}
	return out.String(), err != nil
}
