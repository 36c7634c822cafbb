package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/doctor"
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
	p := place{dir: cmp.Or(dir, c.theirs, defaults.RulesDir), err: err}
	p.daemons = err == nil && (c.theirs == "" || sameFile(p.dir, c.theirs))
	p.template = filepath.Join(p.dir, defaults.TemplateName)
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

// toldLost warns where what was written to a file is lost when this VM is restarted: until then, it is in force.
func (c *call) toldLost(path string) {
	if kept := doctor.KeptAt(context.Background(), c.root, filepath.Dir(path)); kept.Lost {
		c.warn("until this VM is restarted: %s; %s", kept.Text, kept.Remedy)
	}
}
