package main

import (
	"context"
	"flag"
	"math"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/display"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

func showVerb() verb {
	return verb{
		name: "show", args: "[NAME...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var wide bool
			f.BoolVar(&wide, "wide", false, "also show process, port, since when, restarts, how many packets of the proxy the fence has "+
				"refused, and whether the proxy is fully confined")
			return func(ctx context.Context, c *call) error { return runShow(ctx, c, wide) }
		},
		summary: "List VMs that have a list, and what is wrong.",
		help: `STATE is one of
    running     its proxy listens, and the VM reaches it
    starting    its proxy is being started
    waiting     has a list, but is not connected
    failed      its proxy does not start or does not stay; vifproxyd tries again
    refused     its rule file or the template "config" is wrong
    stopped     a person has stopped it, with stop or kill-all, until start

If not all lists are rule files, the column LIST says where each is: "file"; "dom0", a feature of the
firewall VM; "firewall", the VM's firewall settings in dom0; "range", a rule file for its range. With --json, "path" is the path of the file, or the path in QubesDB.

Problems and suspicious lines are printed below the table: errors in files, lines that hardly mean what
their author meant, black lists, VMs that a person has stopped. Each is said once, with all VMs that it
concerns. The exit status is 0 whatever state the VMs are in.
`,
	}
}

// runShow prints troubles of VMs, and does not fail because of them.
func runShow(ctx context.Context, c *call, wide bool) error {
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	if err := status.Knows(c.args...); err != nil {
		return err
	}
	vms := status.Of(c.args)
	text := display.Table(vms)
	if wide {
		text = display.WideTable(vms)
	}
	if err := c.print(orEmpty(vms), text); err != nil {
		return err
	}
	warnOfProblems(c, status, vms)
	return printRemarks(c, c.stdout, display.Remarks(vms, func(control.VM) bool { return true }))
}

// warnOfProblems warns of what is wrong with the daemon, except for what is said of VMs anyway, and of files that it does not read.
func warnOfProblems(c *call, status control.Status, vms []control.VM) {
	for _, b := range status.Barred {
		c.warn("proxies may not leave by %s, where what AppVMs send is dropped by %s", b.Interface, b.Rule)
	}
	for _, problem := range status.Problems {
		if !slices.ContainsFunc(vms, func(vm control.VM) bool { return vm.Error == problem }) {
			c.warn("problem: %s", terminal.Quote(problem))
		}
	}
	if dir := status.Setup.RulesDir; dir != "" {
		for _, text := range rules.Unread(dir, len(status.VMs)) {
			c.warn("%s", text)
		}
	}
}
