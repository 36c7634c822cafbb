package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/doctor"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// examine is the verb doctor. It fails if something is wrong.
func examine(c *call) error {
	dir := cmp.Or(c.rulesDir, defaults.RulesDir)
	findings := doctor.Examine(context.Background(), doctor.Config{Root: c.root, Version: c.version, Socket: c.socket, Setup: control.Setup{
		RulesDir: dir, Template: cmp.Or(c.template, filepath.Join(dir, defaults.TemplateName)), Tinyproxy: c.tinyproxy, ProxyPort: defaults.ProxyPort,
	}})
	text := findingsText(findings, terminal.Width(c.stdout), c.verbose)
	if c.json {
		var err error
		if text, err = document(findings); err != nil {
			return err
		}
	}
	if _, err := c.stdout.Write(text); err != nil {
		return err
	}
	if slices.ContainsFunc(findings, func(f doctor.Finding) bool { return f.Level == doctor.Wrong }) {
		return errTrouble
	}
	return nil
}

// findingsText returns findings for people, on a terminal of this width; 0 is none.
func findingsText(findings []doctor.Finding, width int, verbose bool) []byte {
	const indent = 20
	var b bytes.Buffer
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
	return b.Bytes()
}
