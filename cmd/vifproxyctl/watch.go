package main

import (
	"context"
	"errors"
	"math"
	"time"

	"vifproxy/control"
	"vifproxy/internal/display"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

func watchVerb() verb {
	return verb{
		name: "watch", args: "[NAME...]", most: math.MaxInt, json: true, options: plain(runWatch),
		summary: "Show what happens, line by line, as it happens.",
		help: `watch shows VMs that come and go, proxies that listen, hosts that are refused, changes of rules that
come into force, and what concerns no VM in particular. It ends with Ctrl-C. If vifproxyd ends, watch
waits until it is back.

Of the hosts that a VM is refused or does not reach, watch shows one a second, after a burst of 20;
denied counts all of them. Half of that burst is for hosts that no browser requests without a page. The
other ones are marked.

On a terminal lines have colours, unless NO_COLOR is set. With --json each line is an
object, whose "event" says what happened:
    watching                    the first line, and again when vifproxyd is back
    lost                        vifproxyd has gone
    missed                      "count" events were not read fast enough
    refused                     a VM was refused "host" at "port", for "reason" list or port
    unreached                   "host" was not reached, for "reason" name or connect
    turned-away, full           "reason" template, full; "not_shown" before were not shown
    connected, disconnected     a VM, on "vif"
    rules-found, -renamed, -gone, -accepted, -refused, -odd, -odd-more
    black-list                  the rule file of a VM says what is forbidden, not what passes
    allowed, allowed-no-more    "host", for a time
    learning, learning-over     a VM reaches every public host by its name; "seconds" at most, "why" no more
    any-address                 the proxy may connect to any public address, "why"
    owned                       the proxy has asked for "host" as no tinyproxy does: somebody has taken it over
    unseen                      a VM has an address that nobody has had for 30 days: its list may be another VM's
    stopped, started            a VM, by a person
    proxy-listens, -retires, -ends, -died, -fails
    proxy-full                  "count" clients hold all connections of a proxy: another one follows it
    in-force                    a change, "ms" after it was noticed
    daemon-starts, -stops, -fails, reloading, deaf, trouble, impaired, recovered, leftovers,
    not-shown, confined, half-confined, vulnerable, still-tracked, unfenced,
    barred, not-barred, resolver-ended, no-resolver
`,
	}
}

// reconnectInterval is the time between looks for a daemon that has gone.
const reconnectInterval = 200 * time.Millisecond

// runWatch shows what happens, and goes on when the daemon does.
func runWatch(ctx context.Context, c *call) error {
	colours := terminal.ShowsColours(c.stdout)
	var broken error // standard output
	show := func(e events.Event) error {
		text := []byte(display.Event(e, colours))
		if c.json {
			if text, broken = terminal.JSON(e, ""); broken != nil {
				return broken
			}
		}
		_, broken = c.stdout.Write(text)
		return broken
	}
	watching := false // at the moment
	for begun := false; ; {
		err := c.client.Watch(ctx, c.args, func(e events.Event) error {
			begun, watching = true, true
			return show(e)
		})
		switch {
		case broken != nil:
			return broken
		case !begun || isFinal(err):
			return err
		case watching:
			watching = false
			lost := events.Event{Time: time.Now(), Event: events.Lost, Level: "warn",
				Text: "vifproxyd has gone: waiting for it to come back"}
			if err := show(lost); err != nil {
				return err
			}
		}
		time.Sleep(reconnectInterval)
	}
}

// isFinal reports whether the daemon has refused. Every other error comes from its stopping and starting. Until it has read everything, it
// may not know a VM, or not let this user in.
func isFinal(err error) bool {
	var said *control.DaemonError
	return errors.As(err, &said) && said.Fault != control.Unknown && said.Fault != control.Stopping
}
