package main

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"

	"vifproxy/control"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// place is where rule files and their template are.
type place struct {
	dir, template string
	daemons       bool  // vifproxyd reads them there: a change is in force
	err           error // why vifproxyd could not be asked
}

// place asks vifproxyd where it reads rule files. --rules-dir and --template overrule it, which is told, as is a guess
// where vifproxyd cannot be asked.
func (c *call) place(ctx context.Context) place {
	p := c.placeOf(ctx, c.rulesDir)
	switch {
	case p.err == nil && !p.daemons:
		c.warn("vifproxyd reads %s, not %s: what is written there is not in force", c.theirs, p.dir)
	case p.err != nil && c.rulesDir == "":
		c.warn("vifproxyd cannot be asked which directory it reads; %s is taken", p.dir)
	}
	return p
}

// placeOf is place for a rule directory, "" for that of vifproxyd.
func (c *call) placeOf(ctx context.Context, dir string) place {
	status, err := control.NewClient(c.socket).Status(ctx)
	c.theirs = status.Setup.RulesDir
	p := place{dir: cmp.Or(dir, c.theirs, defaultRules), err: err}
	p.daemons = err == nil && (c.theirs == "" || sameFile(p.dir, c.theirs))
	p.template = filepath.Join(p.dir, templateName)
	if p.daemons {
		p.template = cmp.Or(status.Setup.Template, p.template)
	}
	if c.template != "" {
		p.template = c.template
	}
	return p
}

// fatal returns why nothing can be changed: nobody knows then which directory vifproxyd reads. If it does not run, all can be
// prepared for its start.
func (p place) fatal() error {
	if notRunning := (*control.NotRunningError)(nil); errors.As(p.err, &notRunning) {
		return nil
	}
	return p.err
}

// sameFile reports whether two paths lead to one file, or are the same where there is none.
func sameFile(a, b string) bool {
	one, err1 := os.Stat(a)
	other, err2 := os.Stat(b)
	if err1 == nil && err2 == nil {
		return os.SameFile(one, other)
	}
	a, err1 = filepath.Abs(a)
	b, err2 = filepath.Abs(b)
	return err1 == nil && err2 == nil && a == b
}

// filterOf is how a template makes tinyproxy read rule files.
func filterOf(t rules.Template) (tinyproxy.Filter, error) {
	config, _, err := configOf(t)
	return config.Filter, err
}

// configOf returns what a template makes of a proxy, of no AppVM in particular, and the text that tinyproxy gets.
func configOf(t rules.Template) (tinyproxy.Config, string, error) {
	local := netip.IPv4Unspecified()
	return tinyproxy.ParseConfig(t.Path, t.Render(rules.Values{
		Port: 1, VMIP: local, BindIP: local, LogFile: "log", PidFile: "pid", RulesFile: "rules",
	}))
}

func checkFor(f tinyproxy.Filter) rules.Check {
	c := rules.Check{Syntax: rules.Syntax{CaseSensitive: f.CaseSensitive, URLs: f.URLs, Forbid: !f.DefaultDeny}}
	switch {
	case f.Fnmatch:
		c.Language = rules.Fnmatch
	case f.Extended:
		c.Language = rules.Extended
	}
	return c
}
