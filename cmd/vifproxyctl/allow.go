package main

import (
	"cmp"
	"context"
	"flag"
	"math"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/internal/edit"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

func allowVerb() verb {
	return verb{
		name: "allow", args: "NAME HOST...", least: 2, most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var o grantOptions
			o.define(f)
			f.Var(&o.duration, "for", "only for this `TIME`, such as 10m or 1h30m, at most 7d: no file is changed, and vifproxyd cuts open connections "+
				"when the time is over")
			f.BoolVar(&o.force, "force", false, "also allow what is too wide (co.uk, github.io and other public suffixes), and this VM itself (localhost)")
			return func(ctx context.Context, c *call) error { return runAllow(ctx, c, o) }
		},
		summary: "Let a VM reach hosts.",
		help: `allow adds a line for each HOST to the rule file of NAME: the plain name if the file has "#: format
domains", and otherwise a pattern with its dots escaped and its ends anchored. HOST may also be a URL.
*.HOST stands for all hosts below HOST; its pattern is ^[a-zA-Z0-9._-]*\.HOST$.
For a VM without a rule file, write NAME.IP instead of NAME: this makes its first file, with
"#: format domains".

A port, as in git.example:22 or https://shop.example:8443/, is opened too: the line is git.example:22,
or "#: port 22" in a file of patterns. It is open for all hosts of the list, because tinyproxy cannot
tie a port to a host. Ports that the template "config" opens for all VMs need no line.

allow shows the lines, and behind a line a shortest host that it permits, unless that is HOST itself, or
that it changes nothing because of other lines. With --dry-run it does so before anything is changed.
`,
	}
}

func denyVerb() verb {
	return verb{
		name: "deny", args: "NAME HOST...", least: 2, most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var o grantOptions
			o.define(f)
			return func(ctx context.Context, c *call) error { return runDeny(ctx, c, o) }
		},
		summary: "Take back what allow did.",
		help: `deny removes the lines that allow would add from the rule file of NAME, and ends what is allowed for a
time. Open connections are cut. A HOST without a port is removed with all its ports. A HOST with a port,
in a file of patterns, closes that port for all hosts. If another line still lets a HOST pass, deny
shows it, and the exit status is 1.
`,
	}
}

// grantOptions are those of allow and deny.
type grantOptions struct {
	files              fileOptions
	subdomains, dryRun bool

	duration usage.Length // of allow: 0 is for good
	force    bool         // of allow
}

// define adds the options of both verbs to a flag set.
func (o *grantOptions) define(f *flag.FlagSet) {
	o.files.define(f)
	f.BoolVar(&o.subdomains, "subdomains", false, "include the hosts below each HOST")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing; say what would be done")
}

func runAllow(ctx context.Context, c *call, o grantOptions) error {
	g, err := newGrant(c, o)
	if err != nil {
		return err
	}
	return g.allow(ctx)
}

// allow adds lines for the hosts, or lets them pass for a time.
func (g *grant) allow(ctx context.Context) error {
	for _, host := range g.hosts {
		if why := cmp.Or(host.Objection(), edit.OwnObjection(host)); why != "" && !g.o.force {
			return usagef("%s, or insist with --force", why)
		}
	}
	const longest = control.MaxTemporary * time.Second
	duration := g.o.duration
	if duration.Given && (duration.D < time.Second || duration.D > longest) {
		return usagef("--for=%s: from 1s to %v; without --for it is for good", duration.Typed, usage.Length{D: longest})
	}
	g.place = g.c.place(ctx, g.o.files)
	if err := g.place.fatal(); err != nil {
		return err
	}
	g.added, g.mayMake = true, !duration.Given
	if err := g.read(); err != nil && (!duration.Given || g.o.dryRun) { // for a time no file is needed
		return err
	}
	if err := g.rules.MayAllow(g.hosts...); err != nil && !duration.Given { // the daemon says it of what is for a time
		return err
	}
	for _, host := range g.lack() {
		if duration.Given {
			g.c.warn("%s is on the list for good, and stays there: %s", host, g.Path)
		}
	}
	if duration.Given {
		g.Seconds, g.Lines = int(duration.D/time.Second), []string{}
		return g.temporary(ctx)
	}
	if g.dom0 != nil {
		return g.tellDom0("added", rules.Append(g.dom0.Content(), g.Lines))
	}
	return g.change(ctx, "added to", func(content []byte) ([]byte, error) {
		return rules.Append(content, g.Lines), nil
	})
}

// lack notes the lines and the ports that the list lacks for the hosts, and returns the hosts for which it lacks no line.
func (g *grant) lack() (listed []rules.Host) {
	for _, host := range g.hosts {
		if host.Port != 0 && !slices.Contains(g.Ports, host.Port) {
			g.Ports = append(g.Ports, host.Port)
		}
		lacks := g.file.Lacks(g.check.Syntax, host)
		for _, line := range lacks {
			if !slices.Contains(g.Lines, line) {
				g.Lines = append(g.Lines, line)
			}
		}
		if lacks == nil {
			listed = append(listed, host)
		}
	}
	return listed
}

// runDeny takes back what allow with the same words did, for good or for a time.
func runDeny(ctx context.Context, c *call, o grantOptions) error {
	g, err := newGrant(c, o)
	if err != nil {
		return err
	}
	g.place = c.place(ctx, o.files)
	if err := g.place.fatal(); err != nil {
		return err
	}
	if err := g.read(); err != nil {
		return err
	}
	var content []byte
	if g.dom0 != nil {
		content = g.dom0.Content()
	} else if content, err = rules.ReadFile(g.Path); err != nil {
		return err
	} else if g.file, err = rules.ParseFile(g.Path, content); err != nil {
		return err
	}
	without, removed := g.file.Without(content, g.check.Syntax, g.hosts)
	g.Lines = append(g.Lines, removed...)
	if !o.dryRun && g.place.err == nil {
		status, err := c.client.Allow(ctx, control.Temporary{Name: g.VM, Hosts: g.Hosts})
		if err != nil {
			return err
		}
		g.TakenBack = status.TakenBack
	}
	if g.dom0 != nil {
		return g.tellDom0("removed", without)
	}
	return g.change(ctx, "removed from", func(content []byte) ([]byte, error) {
		file, err := rules.ParseFile(g.Path, content)
		changed, _ := file.Without(content, g.check.Syntax, g.hosts)
		return changed, err
	})
}
