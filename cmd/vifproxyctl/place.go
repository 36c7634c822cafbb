package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"path/filepath"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/dom0"
	"vifproxy/internal/kept"
	"vifproxy/internal/regular"
	"vifproxy/internal/terminal"
)

// fileOptions overrule where rule files and their template are, for verbs that use them without the daemon.
type fileOptions struct{ rulesDir, template, ceiling string }

func (o *fileOptions) define(f *flag.FlagSet) {
	f.StringVar(&o.rulesDir, "rules-dir", "", "`DIR` of rule files, instead of the one that vifproxyd reads")
	f.StringVar(&o.template, "template", "", "`FILE` that is the template of all proxies, instead of vifproxyd's")
	f.StringVar(&o.ceiling, "ceiling", "", "`FILE` that no list may go beyond, instead of vifproxyd's, see vifproxyd(8)")
}

// A place is where rule files and their template are.
type place struct {
	dir, template string
	ceiling       string // "" if there is none
	theirs        string // the rule directory of vifproxyd, "" if that is not known
	daemons       bool   // vifproxyd reads them there: a change is in force
	err           error  // why vifproxyd could not be asked
	status        control.Status
}

// place asks vifproxyd where it reads rule files. It warns if options overrule that, or if vifproxyd cannot be asked.
func (c *call) place(ctx context.Context, o fileOptions) place {
	p := c.placeOf(ctx, o)
	switch {
	case p.err == nil && !p.daemons:
		c.warn("vifproxyd reads %s, not %s: what is written there is not in force", p.theirs, p.dir)
	case errors.As(p.err, new(*control.PermissionError)) && o.rulesDir == "":
		c.warn("only root may ask vifproxyd which directory it reads (sudo); %s is taken", p.dir)
	case p.err != nil && o.rulesDir == "":
		c.warn("vifproxyd cannot be asked which directory it reads; %s is taken", p.dir)
	}
	return p
}

// placeOf is place without the warnings.
func (c *call) placeOf(ctx context.Context, o fileOptions) place {
	status, err := c.client.Status(ctx)
	theirs := status.Setup.RulesDir
	p := place{dir: cmp.Or(o.rulesDir, theirs, defaults.RulesDir), theirs: theirs, err: err, status: status}
	p.daemons = err == nil && (theirs == "" || regular.Same(p.dir, theirs))
	p.template = filepath.Join(p.dir, defaults.TemplateName)
	if p.daemons {
		p.template, p.ceiling = cmp.Or(status.Setup.Template, p.template), status.Setup.Ceiling
	}
	p.template, p.ceiling = cmp.Or(o.template, p.template), cmp.Or(o.ceiling, p.ceiling)
	return p
}

// fatal returns why nothing can be changed: it is not known which directory vifproxyd reads. If vifproxyd does not run, all can be prepared
// for its start.
func (p place) fatal() error {
	if notRunning := (*control.NotRunningError)(nil); errors.As(p.err, &notRunning) {
		return nil
	}
	return p.err
}

// warnIfLost warns if what was written to a file is lost when this VM is restarted, and prints the command for dom0 that keeps it, if there
// is one. Until the restart, it is in force.
func (c *call) warnIfLost(ctx context.Context, path string, at place) {
	kept := kept.At(ctx, c.root, filepath.Dir(path))
	if !kept.Lost {
		return
	}
	switch command, err := dom0.Keeping(path, at.status.Setup.QubesDB); {
	case !kept.Disposable || err != nil || at.err == nil && at.status.Setup.QubesDB == "": // dom0's lists do not count
		c.warn("until this VM is restarted: %s; %s", kept.Text, kept.Remedy)
	default:
		c.warn("until this VM is restarted: %s; to keep this one, type in dom0:", kept.Text)
		_ = say(c.stderr, "%s\n", terminal.Quote(command)) // on one line, to be pasted
	}
}
