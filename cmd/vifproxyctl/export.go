package main

import (
	"cmp"
	"context"
	"flag"

	"vifproxy/control"
	"vifproxy/internal/dom0"
	"vifproxy/qubes"
	"vifproxy/rules"
)

func exportVerb() verb {
	return verb{
		name: "export", args: "NAME", least: 1, most: 1,
		options: func(f *flag.FlagSet) action {
			var o fileOptions
			o.define(f)
			return func(ctx context.Context, c *call) error { return runExport(ctx, c, o) }
		},
		summary: "Print the command for dom0 that keeps a list there.",
		help: `export prints the list of NAME as a command to type in dom0. It makes the list a feature of this VM, which
counts instead of the rule file, and which a disposable firewall VM keeps. Only lists of names can be there.
`,
	}
}

func runExport(ctx context.Context, c *call, o fileOptions) error {
	at := c.place(ctx, o)
	set, err := rules.Read(at.dir, at.template)
	if err != nil {
		return err
	}
	file, err := set.Find(c.args[0])
	if vm, unknown := at.status.VM(c.args[0]); unknown == nil && at.daemons && vm.Origin != control.InFile {
		file, err = fileOf(at, set, vm)
	}
	if err != nil {
		return err
	}
	command, err := dom0.New(cmp.Or(at.status.Setup.QubesDB, qubes.Socket), false).Export(file)
	if err != nil {
		return err
	}
	return say(c.stdout, "%s\n", command)
}
