package main

import (
	"context"
	"flag"
	"os"
	"strings"

	"vifproxy/internal/check"
	"vifproxy/rules"
)

func diffVerb() verb {
	return verb{
		name: "diff", args: "NAME|FILE EDITED", least: 2, most: 2, json: true,
		options: func(f *flag.FlagSet) action {
			var o fileOptions
			o.define(f)
			return func(ctx context.Context, c *call) error { return runDiff(ctx, c, o) }
		},
		summary: "Say which hosts an edit of a rule file permits or no longer permits.",
		help: `diff compares the rule file of NAME, or FILE, which may be in lists.d, with an edited copy of it, before the copy takes its place.
It prints each line that only one of them has, and a shortest host that the VM may reach because of it,
or no longer. It says if a line changes nothing, because other lines of the file permit the same hosts.

Example:
    $ cp /rw/config/tinyproxy/bank.10.137.0.12 edited
    $ echo '*.bank.example' >>edited
    $ vifproxyctl diff bank edited
    + *.bank.example  permits a.bank.example
    $ cp edited /rw/config/tinyproxy/bank.10.137.0.12
`,
	}
}

func runDiff(ctx context.Context, c *call, o fileOptions) error {
	path, edited := c.args[0], c.args[1]
	at := c.placeOf(ctx, o)
	if _, err := os.Lstat(path); err != nil && !strings.Contains(path, "/") {
		if path, err = ruleFileOf(c.place(ctx, o), path); err != nil {
			return err
		}
	} else if o.rulesDir == "" {
		at = c.placeOf(ctx, fileOptions{rulesDir: rules.RulesDirOf(path), template: o.template, ceiling: o.ceiling})
	}
	changes, err := check.Compare(check.Config{Template: at.template, Ceiling: at.ceiling}, path, edited)
	if err != nil {
		return err
	}
	return c.print(orEmpty(changes), check.ChangesText(changes))
}
