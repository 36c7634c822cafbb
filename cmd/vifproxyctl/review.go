package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/internal/edit"
	"vifproxy/internal/review"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
	"vifproxy/rules"
)

func reviewVerb() verb {
	return verb{
		name: "review", args: "[NAME...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			o := reviewOptions{after: usage.Length{D: reviewAfter}}
			f.Var(&o.after, "after", "propose only what was counted for this `TIME`, such as 30d; without it 14d")
			f.BoolVar(&o.fix, "fix", false, "comment out the covered and the unused lines of one rule file, with the date, and show what that takes away")
			f.BoolVar(&o.narrow, "narrow", false, "with --fix, also replace wide lines by the hosts that were used")
			f.BoolVar(&o.wildcards, "wildcards", false, "with --fix, also replace wide lines: by the narrower wildcard where there is one, by the hosts where there is none")
			f.StringVar(&o.share, "share", "", "move what the rule files of several VMs have in common to a new `LIST` in lists.d, which they include")
			f.BoolVar(&o.dryRun, "dry-run", false, "change nothing; show what --fix would change")
			return func(ctx context.Context, c *call) error { return runReview(ctx, c, o) }
		},
		summary: "Say which lines of a list nobody needs.",
		help:    review.Help,
	}
}

// reviewAfter is for how long requests have to be counted before a line is called unused, if nothing else is said.
const reviewAfter = 14 * 24 * time.Hour

type reviewOptions struct {
	after                          usage.Length
	fix, narrow, wildcards, dryRun bool
	share                          string
}

// narrowing returns what is written in the place of wide lines.
func (o reviewOptions) narrowing() review.Narrowing {
	switch {
	case o.wildcards:
		return review.ToWildcards
	case o.narrow:
		return review.ToHosts
	}
	return review.KeepWide
}

// A reviewed is what review prints as JSON.
type reviewed struct {
	Lists  []review.Report `json:"lists"`
	Common *review.Common  `json:"common,omitempty"`
}

// check refuses options that contradict each other, or the number of VMs.
func (o reviewOptions) check(vms int) error {
	switch {
	case o.share != "" && (o.fix || vms < 2):
		return usagef("--share is for several VMs, without --fix: vifproxyctl review NAME NAME --share=LIST")
	case o.fix && vms != 1:
		return usagef("--fix is for one VM: vifproxyctl review NAME --fix")
	case (o.narrow || o.wildcards || o.dryRun) && !o.fix:
		return usagef("--narrow, --wildcards and --dry-run are for --fix")
	case o.narrow && o.wildcards:
		return usagef("--narrow writes hosts and --wildcards wildcards: give one of them")
	case o.after.D < 0:
		return usagef("--after=%s: write for how long, such as 14d", o.after.Typed)
	}
	return nil
}

func runReview(ctx context.Context, c *call, o reviewOptions) error {
	if err := o.check(len(c.args)); err != nil {
		return err
	}
	at := c.placeOf(ctx, fileOptions{})
	if at.err != nil {
		return at.err
	}
	if err := at.status.Knows(c.args...); err != nil {
		return err
	}
	set, err := edit.Read(at.dir, at.template, at.ceiling)
	if err != nil {
		return err
	}
	uses, err := c.client.Review(ctx, nil)
	if err != nil {
		return err
	}
	var all reviewed
	var files []rules.File
	var failed error
	text := ""
	for _, vm := range at.status.Of(c.args) {
		file, err := fileOf(at, set.Set, vm)
		if err == nil {
			var r review.Report
			r, err = review.Of(review.Input{VM: vm.Name, Origin: vm.Origin, File: file, Template: set.Template, Uses: uses, Enough: o.after.D})
			all.Lists = append(all.Lists, r)
			text += r.Text(terminal.Width(c.stdout), len(c.args) == 1)
		}
		if err != nil {
			c.warn("%s: %v", vm.Name, err)
			failed = errTrouble
		} else if vm.Origin == control.InFile || vm.Origin == "" {
			files = append(files, file)
		}
	}
	common := review.CommonOf(files)
	if len(c.args) == 0 {
		common = review.MostCommon(files, "")
	}
	switch {
	case failed != nil && (o.fix || o.share != ""):
		return failed
	case o.share != "":
		return share(ctx, c, at, common, o.share, set.Template)
	case len(common.Lines) > 0:
		all.Common = &common
		text += usage.Wrap(strings.TrimSpace(common.Text()), terminal.Width(c.stdout), 4)
	}
	all.Lists = orEmpty(all.Lists)
	if err := c.print(all, text); err != nil || !o.fix {
		return errors.Join(err, failed)
	}
	return fix(ctx, c, at, o, all.Lists[0], set.Template)
}

// fix writes what a review proposes for the rule file of one VM.
func fix(ctx context.Context, c *call, at place, o reviewOptions, r review.Report, template rules.Template) error {
	switch r.Origin {
	case control.InRange:
		return fmt.Errorf("the list of %s is that of all AppVMs of its range: edit %s yourself", r.VM, r.Path)
	case control.InDom0, control.InFirewall:
		return fixElsewhere(c, at, o, r)
	}
	g := newGrantOf(c, grantOptions{}, nil)
	g.VM, g.Path = r.VM, r.Path
	edits, changes, err := r.Apply(template, o.narrowing(), o.dryRun, g.write)
	switch {
	case err != nil:
		return err
	case len(edits) == 0:
		c.warn("nothing to fix: no line is covered, or unused for %v", o.after)
		return nil
	}
	if o.dryRun {
		showEdits(ctx, c, at, "would fix", r.Path, edits, changes)
		return nil
	}
	showEdits(ctx, c, at, "fixed", r.Path, edits, changes)
	return g.wait(ctx)
}

// wait waits until a change of the list is in force, and says so on standard error.
func (g *grant) wait(ctx context.Context) error {
	began := time.Now()
	status, err := g.c.client.Update(ctx)
	if err == nil {
		g.serves(status, began)
		err = say(g.c.stderr, "%s", g.inForce())
	}
	return err
}

// fixElsewhere prints the command for dom0 that does so for a list there.
func fixElsewhere(c *call, at place, o reviewOptions, r review.Report) error {
	list, err := listAt(at.status, r.Path)
	if err != nil {
		return err
	}
	lines := r.Lists(list.Lines, o.narrowing())
	switch {
	case slices.Equal(lines, list.Lines):
		c.warn("nothing to fix: no line is covered, or unused for %v", o.after)
		return nil
	case r.Origin == control.InFirewall:
		gone := slices.DeleteFunc(slices.Clone(list.Lines), func(line string) bool { return slices.Contains(lines, line) })
		c.warn("nothing is changed: the list of %s is its firewall settings in dom0; remove there what is for %s", r.VM, strings.Join(gone, ", "))
	default:
		c.warn("nothing is changed: the list of %s is in dom0; %s", r.VM, list.Remedy(lines))
	}
	return errTrouble // it is not done yet
}

// share moves what rule files have in common to a list.
func share(ctx context.Context, c *call, at place, common review.Common, name string, template rules.Template) error {
	path := filepath.Join(at.dir, rules.SharedDir, name)
	if err := common.Share(path, template); err != nil {
		return fmt.Errorf("%w (nothing that was permitted is not any more)", err)
	}
	if err := say(c.stdout, "%d lines are in %s now, which %s include\n", len(common.Lines), terminal.Quote(path), terminal.Quote(strings.Join(common.VMs, ", "))); err != nil {
		return err
	}
	c.warnIfLost(ctx, path, at)
	g := newGrantOf(c, grantOptions{}, nil)
	g.VM = common.VMs[0]
	return g.wait(ctx)
}

// mentionCommon says what the rule file of a VM has in common with another one. Files that do not count, because dom0 has another list,
// are left out.
func mentionCommon(c *call, at place, vm string) error {
	set, err := rules.Read(at.dir, at.template)
	files := slices.DeleteFunc(set.Files, func(f rules.File) bool {
		return slices.ContainsFunc(at.status.VMs, func(vm control.VM) bool {
			return vm.Origin == control.InDom0 && (vm.Name == f.Name || vm.IP == f.Addr.String())
		})
	})
	if text := review.MostCommon(files, vm).Text(); err == nil && text != "" {
		c.warn("%s", strings.TrimSpace(text))
	}
	return err
}
