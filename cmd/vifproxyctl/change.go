package main

import (
	"context"
	"math"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/display"
)

func updateVerb() verb {
	return verb{
		name: "update", args: "[NAME...]", most: math.MaxInt, json: true, options: plain(change(update)),
		summary: "Read all rule files again, and wait until they are in force.",
		help: `vifproxyd notices changes without being told. Use update to wait until they are in force, and to try
again at once what has failed. A stopped VM stays stopped. update always reads all files; NAME selects
the VMs that are shown and that decide the exit status.
`,
	}
}

func startVerb() verb {
	return verb{
		name: "start", args: "NAME...", least: 1, most: math.MaxInt, json: true, options: plain(change((*control.Client).Start)),
		summary: "Start the proxies of VMs that are stopped.",
	}
}

func stopVerb() verb {
	return verb{
		name: "stop", args: "NAME...", least: 1, most: math.MaxInt, json: true, options: plain(change((*control.Client).Stop)),
		summary: "Stop the proxies of VMs until start or restart.",
		help: `A stopped VM stays stopped whatever happens to vifproxyd and to the rule file. It is stopped by its
name and by its address, so a file that gets another name or another address does not start it.
vifproxyd remembers this in /var/lib/vifproxy/stopped. It forgets if a restart of this VM empties
/var, as in a disposable and in every VM with a template.
`,
	}
}

func restartVerb() verb {
	return verb{
		name: "restart", args: "NAME...", least: 1, most: math.MaxInt, json: true, options: plain(change((*control.Client).Restart)),
		summary: "Give VMs new proxies, without a gap.",
	}
}

func killAllVerb() verb {
	return verb{
		name: "kill-all", json: true, options: plain(change(killAll(false))),
		summary: "End all proxies at once; nobody has one until start.",
		help: `Open connections are cut. VMs whose rule files come later are stopped too. "start NAME..." starts
single VMs again, kill-all-and-restart all of them. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}
}

func killAllAndRestartVerb() verb {
	return verb{
		name: "kill-all-and-restart", json: true, options: plain(change(killAll(true))),
		summary: "End all proxies at once, and start them again.",
		help: `Open connections are cut. VMs that were stopped are started too. Only vifproxyd's own proxies are ended, no other tinyproxy.
`,
	}
}

// change returns the action of a verb that changes something. It shows what became of the VMs concerned, the named ones or all. It
// fails if one of them is in trouble, or if all are concerned and the daemon itself is.
func change(do func(*control.Client, context.Context, []string) (control.Status, error)) action {
	return func(ctx context.Context, c *call) error {
		status, err := do(c.client, ctx, c.args)
		if err != nil {
			return err
		}
		vms := status.Of(c.args)
		if err := c.print(orEmpty(vms), display.Table(vms)); err != nil {
			return err
		}
		if status.Cut > 0 {
			c.warn("connections cut: %d", status.Cut)
		}
		warnOfProblems(c, status, vms)
		calm := func(vm control.VM) bool { return !vm.InTrouble() }
		if err := printRemarks(c, c.stdout, display.Remarks(vms, calm)); err != nil {
			return err
		}
		if err := printRemarks(c, c.stderr, display.Remarks(vms, control.VM.InTrouble)); err != nil {
			return err
		}
		if slices.ContainsFunc(vms, control.VM.InTrouble) || len(c.args) == 0 && len(status.Problems) > 0 {
			return errTrouble
		}
		return nil
	}
}

func update(c *control.Client, ctx context.Context, names []string) (control.Status, error) {
	status, err := c.Update(ctx)
	if err == nil {
		err = status.Knows(names...)
	}
	return status, err
}

func killAll(restart bool) func(*control.Client, context.Context, []string) (control.Status, error) {
	return func(c *control.Client, ctx context.Context, _ []string) (control.Status, error) {
		return c.KillAll(ctx, restart)
	}
}
