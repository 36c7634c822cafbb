package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"path/filepath"

	"vifproxy/internal/defaults"
	"vifproxy/internal/dom0"
	"vifproxy/internal/proxyctl"
	"vifproxy/internal/terminal"
	"vifproxy/qubes"
)

func importVerb() verb {
	return verb{
		name: "import", args: "[PATH]", most: 1,
		options: func(f *flag.FlagSet) action {
			var o importOptions
			f.BoolVar(&o.fromDom0, "from-dom0", false, "only print the lists that dom0 has decided, which count without an import")
			f.BoolVar(&o.apply, "apply", false, "do what is marked with +")
			f.StringVar(&o.files.rulesDir, "rules-dir", "", "`DIR` to copy to, instead of the one that vifproxyd reads")
			return func(ctx context.Context, c *call) error { return runImport(ctx, c, o) }
		},
		summary: "Take over a set-up of proxyctl.py, or say what prevents it.",
		help: `import searches PATH (` + defaults.RulesDir + `) for rule files, the template "config" and proxyctl.py, and the
directory above it for scripts that call proxyctl.py. It explains each finding. Without --apply it changes
nothing. With --apply it copies what is good to DIR, unless PATH is DIR, and makes proxyctl.py a link to
vifproxyctl. The exit status is 1 while something needs your attention. vifproxyd need not run.
`,
	}
}

type importOptions struct {
	files fileOptions
	apply bool

	fromDom0 bool
}

func runImport(ctx context.Context, c *call, o importOptions) error {
	if o.fromDom0 {
		text, err := dom0.New(cmp.Or(c.placeOf(ctx, o.files).status.Setup.QubesDB, qubes.Socket), true).Describe()
		if err != nil {
			return err
		}
		return say(c.stdout, "%s", text)
	}
	from := defaults.RulesDir
	if len(c.args) > 0 {
		from = c.args[0]
	}
	at := c.place(ctx, o.files)
	from, to := filepath.Clean(from), filepath.Clean(at.dir)
	show := func(f proxyctl.Finding) { fmt.Fprintf(c.stdout, "%1s %s\n", f.Mark, terminal.Quote(f.Text)) }
	result, err := proxyctl.Import(proxyctl.Config{From: from, To: to, Apply: o.apply, Report: show})
	switch {
	case err != nil:
		return fmt.Errorf("import %s: %w", from, err)
	case result.Found == 0:
		return fmt.Errorf("import %s: there are no rule files NAME.IP, no template %s and no %s", from, defaults.TemplateName, proxyctl.Script)
	case !o.apply && result.Todo > 0:
		show(proxyctl.Finding{Text: "nothing has been changed: run this again with --apply"})
	case result.Todo > 0:
		show(proxyctl.Finding{Text: "what is marked with + has been done; see what the files permit: vifproxyctl check " + to})
		c.warnIfLost(ctx, filepath.Join(to, defaults.TemplateName), at)
	}
	if result.Wrong > 0 {
		return fmt.Errorf("import %s: %d things need your attention; they are marked with ! above", from, result.Wrong)
	}
	return nil
}
