package main

import (
	"context"
	"flag"
	"math"
	"slices"
	"time"

	"vifproxy/internal/display"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

func deniedVerb() verb {
	return verb{
		name: "denied", args: "[NAME...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var since usage.Length
			var pick pickOptions
			f.Var(&since, "since", "only what came in the last `TIME`, such as 10m, 1h30m or 2d")
			pick.define(f)
			return func(ctx context.Context, c *call) error { return runDenied(ctx, c, since, pick) }
		},
		summary: "List what VMs asked for and did not get, and why, newest first.",
		help: `vifproxyd keeps the last 256 of these hosts for each VM, until it is restarted. REASON is
    list        no rule permits the host: see allow
    port        the port is not open for tunnels (HTTPS): see ConnectPort
    name        the name has no address, or no name server answers
    connect     nobody answers, the host refuses, or something is in the way: the fence, a missing
                route, rules of another program
    template    Allow, Deny or BasicAuth in the template "config"
    full        as many connections as MaxClients permits are open; the next one waits
A host that does not answer is listed after 5 s. If an Upstream of the template "config" cannot
be reached, it is listed itself. HOST and PORT are "--" if tinyproxy does not name them. An
international name is shown as it was sent, followed by its other spelling in parentheses.

Browsers are known to request some hosts without a page. These hosts are marked "by itself" and come
last; a page may need them too. The exit status is 0 even if there is nothing to list.

With --json: an array of VMs, each with an array of hosts. In addition to "reason" a host has "what":
Allow, BasicAuth, no-answer, refused, closed, fence, no-route, another-table, too-many; and
"browser": what browsers request of the host without a page.

With --pick, or --accept, for one NAME: the lines that would let its refused hosts pass, by site, and what
else each of them would permit. *.SITE is offered if several hosts of a site were refused. On a terminal
you tick lines, see the list as it would be, and Enter writes it. Nothing is ticked at first, because the
VM chose the names. Elsewhere the lines are printed, and --accept writes them:
    $ vifproxyctl denied banking --accept=bank.example,cdn.example
--accept=all stands for all sites but for hosts that browsers request without a page. SITE can also be one
of the lines, such as \*.bank.example.
`,
	}
}

func runDenied(ctx context.Context, c *call, since usage.Length, pick pickOptions) error {
	if since.D < 0 {
		return usagef("--since=%s is in the future: write how long ago, such as 10m", since.Typed)
	}
	var from time.Time
	if since.Given {
		from = time.Now().Add(-since.D)
	}
	if pick.given() && len(c.args) != 1 {
		return usagef("--pick and --accept are for one VM: vifproxyctl denied NAME --pick")
	}
	vms, err := c.client.Denied(ctx, c.args, from)
	if err != nil {
		return err
	}
	for _, vm := range vms {
		if vm.Forgotten > 0 {
			c.warn("%s: %d more, of hosts that newer ones have pushed off the list", terminal.Quote(vm.VM), vm.Forgotten)
		}
	}
	if pick.given() {
		return runPick(ctx, c, pick, vms)
	}
	format := display.Time
	if terminal.Width(c.stdout) > 0 {
		format = func(t time.Time) string { return display.ShortTime(t, time.Now()) }
	}
	text := display.DeniedTable(vms, format)
	if !slices.ContainsFunc(vms, func(vm events.Denied) bool { return len(vm.Hosts) > 0 }) {
		text = display.NothingDenied(c.args, from) + "\n"
	}
	return c.print(orEmpty(vms), text)
}
