package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/doctor"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

func doctorVerb() verb {
	return verb{
		name: "doctor", json: true,
		options: func(f *flag.FlagSet) action {
			var o doctorOptions
			o.files.define(f)
			f.StringVar(&o.tinyproxy, "tinyproxy", defaults.Tinyproxy, "`PATH` of tinyproxy if vifproxyd does not run ("+defaults.Tinyproxy+")")
			f.BoolVar(&o.verbose, "verbose", false, "also list what a finding sums up")
			return func(ctx context.Context, c *call) error { return runDoctor(ctx, c, o) }
		},
		summary: "Say whether everything around vifproxyd is as it should be.",
		help: `Each line is a finding, with a remedy where something can be done:
    ok       as it should be
    note     may be meant so
    wrong    makes the exit status 1

It examines vifproxyd and its options, tinyproxy and the advisories on it, the firewall, what this
machine can confine proxies with, rule files, what all VMs together may take of this machine, connected
VMs, signs of a second firewall VM in between, what the rules in dom0 let VMs do without their proxies,
routes and tunnels, resolvers, chains of other programs, the service in dom0, and what this VM keeps
at a restart.

It changes nothing. It asks each name server once. vifproxyd opens a connection for up to three VMs, to
the first host of their lists, and sends nothing. vifproxyd need not run: then the options say where
tinyproxy and the files are.

With --json: an array of objects with check, level, text, remedy and, if the text sums up, details.
`,
	}
}

type doctorOptions struct {
	files     fileOptions
	tinyproxy string
	verbose   bool
}

// runDoctor fails if something is wrong.
func runDoctor(ctx context.Context, c *call, o doctorOptions) error {
	dir := cmp.Or(o.files.rulesDir, defaults.RulesDir)
	findings := doctor.Examine(ctx, doctor.Config{Root: c.root, Version: c.version, Socket: c.socket, Setup: control.Setup{
		RulesDir: dir, Template: cmp.Or(o.files.template, filepath.Join(dir, defaults.TemplateName)), Tinyproxy: o.tinyproxy,
		Ceiling:   o.files.ceiling,
		ProxyPort: defaults.ProxyPort,
	}})
	if err := c.print(findings, findingsText(findings, terminal.Width(c.stdout), o.verbose)); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f doctor.Finding) bool { return f.Level == doctor.Wrong }) {
		return errTrouble
	}
	return nil
}

// findingsText returns findings for people, on a terminal of this width; 0 is none.
func findingsText(findings []doctor.Finding, width int, verbose bool) string {
	const indent = 20
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(usage.Wrap(fmt.Sprintf("%-5s  %-11s  %s", f.Level, f.Check, terminal.Quote(f.Text)), width, indent))
		if f.Remedy != "" {
			b.WriteString(usage.Wrap(fmt.Sprintf("%*s%s", indent, "→ ", terminal.Quote(f.Remedy)), width, indent))
		}
		for _, detail := range f.Details {
			if verbose {
				b.WriteString(usage.Wrap(fmt.Sprintf("%*s%s", indent, "- ", terminal.Quote(detail)), width, indent))
			}
		}
	}
	return b.String()
}
