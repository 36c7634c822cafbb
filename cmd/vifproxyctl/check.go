package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/check"
	"vifproxy/internal/defaults"
	"vifproxy/internal/policy"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

func checkVerb() verb {
	return verb{
		name: "check", args: "[FILE|NAME|DIR...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var o checkOptions
			o.files.define(f)
			f.StringVar(&o.tinyproxy, "tinyproxy", defaults.Tinyproxy, "`PATH` of tinyproxy ("+defaults.Tinyproxy+")")
			f.BoolVar(&o.fix, "fix", false, `rewrite lines that can have meant one thing only, as a URL among names, remove lines that add nothing, `+
				`and show both. Lines that can mean two things stay, as names without "#: format domains". No line allows a host that it did `+
				`not allow before. But a file that was refused may become valid, and then all its lines are in force.`)
			return func(ctx context.Context, c *call) error { return runCheck(ctx, c, o) }
		},
		summary: "Find mistakes in rule files and template.",
		help: `check reads all rule files of the directory that vifproxyd reads, or those of DIR, or the named ones, and
the template "config" next to them. The list of a NAME can be in dom0 too: the remedy is to type there. It tries patterns and the template with tinyproxy, if that is
installed. vifproxyd need not run. The exit status is 0 if nothing is wrong. It is 1 otherwise, also if
there are no rule files.
`,
	}
}

type checkOptions struct {
	files     fileOptions
	tinyproxy string
	fix       bool
}

// runCheck needs no daemon.
func runCheck(ctx context.Context, c *call, o checkOptions) error {
	at, paths, lists, err := filesToCheck(ctx, c, o)
	if err != nil {
		return err
	}
	report, err := check.Run(ctx, check.Config{Dir: at.dir, Template: at.template, Ceiling: at.ceiling, Paths: paths, Lists: lists, Tinyproxy: o.tinyproxy, Fix: o.fix,
		Changed: func(path string, edits []string, changes []policy.Change) {
			showEdits(ctx, c, at, "fixed", path, edits, changes)
		}})
	if err != nil {
		return err
	}
	all := paths == nil && lists == nil
	if all {
		for _, text := range rules.Unread(at.dir, report.Files) {
			c.warn("%s", text)
		}
	}
	if len(report.Black) > 0 {
		c.warn("black lists, by FilterDefaultDeny No in %s: the VMs reach all hosts but those in %s", at.template,
			strings.Join(report.Black, ", "))
	}
	for _, ports := range report.Ports {
		c.warn("%s for all hosts of the list, as tinyproxy ties none to one host", ports)
	}
	for _, list := range report.Anywhere {
		c.warn("%s, so whoever takes over the proxy reaches any public address", list)
	}
	if report.Untried != nil {
		c.warn("patterns were not tried: %v", report.Untried)
	}
	if o.fix && report.Fixed == 0 && len(report.Findings) > 0 {
		c.warn("nothing was changed: each mistake that was found can mean more than one thing")
	}
	if err := c.print(report.Findings, check.Text(report.Findings, terminal.Width(c.stdout))); err != nil {
		return err
	}
	if len(report.Findings) > 0 || all && report.Files == 0 {
		return errTrouble
	}
	return nil
}

// showEdits shows which lines of a file were changed, and what that changes.
func showEdits(ctx context.Context, c *call, at place, what, path string, edits []string, changes []policy.Change) {
	c.warn("%s %s:", what, path)
	for _, edit := range edits {
		line := strings.TrimRight(edit, "\r")
		fmt.Fprintf(c.stderr, "    %s\n", check.WithEffect(line, check.Effect(changes, strings.Trim(line[2:], " \t"), line[0] == '+')))
	}
	if what == "fixed" {
		c.warnIfLost(ctx, path, at)
	}
}

// filesToCheck returns the files that are meant, which are named by path or by VM, the lists of VMs that are in dom0, and where the
// directory and the template are. There are neither files nor lists if all files of the directory are meant.
func filesToCheck(ctx context.Context, c *call, o checkOptions) (at place, paths []string, lists []rules.List, err error) {
	in := func(dir string) place {
		return c.placeOf(ctx, fileOptions{rulesDir: dir, template: o.files.template, ceiling: o.files.ceiling})
	}
	switch dir := slices.IndexFunc(c.args, check.IsRuleDir); {
	case dir >= 0 && len(c.args) > 1:
		return at, nil, nil, usagef("%s is a directory: check one directory, or files and VMs", c.args[dir])
	case dir >= 0:
		return in(c.args[dir]), nil, nil, nil
	case len(c.args) == 0:
		return c.place(ctx, o.files), nil, nil, nil
	}
	for _, name := range c.args {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/") {
			if at.dir == "" {
				at = c.place(ctx, o.files)
			}
			if vm, unknown := at.status.VM(name); unknown == nil && at.daemons && (vm.Origin == control.InDom0 || vm.Origin == control.InFirewall) {
				list, err := listAt(at.status, vm.Path)
				if err != nil {
					return at, nil, nil, err
				}
				lists = append(lists, *list)
				continue
			}
			if name, err = ruleFileOf(at, name); err != nil {
				return at, nil, nil, err
			}
		}
		paths = append(paths, name)
	}
	if at.dir == "" { // the template is that of the first file
		at = in(rules.RulesDirOf(paths[0]))
	}
	return at, paths, lists, nil
}

// ruleFileOf returns the rule file of a VM, in whatever state it is. The VM may be named with its address, as its file is. A list that VMs
// include is found by its name too, if no VM has that name.
func ruleFileOf(at place, name string) (string, error) {
	if _, addr, wrong := rules.ParseFileName(name); addr.IsValid() || wrong != nil {
		path := filepath.Join(at.dir, name)
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		}
	}
	set, err := rules.Read(at.dir, at.template)
	if err != nil {
		return "", err
	}
	for _, r := range set.Refused {
		if r.Name == name {
			return r.Path, nil
		}
	}
	file, err := set.Find(name)
	shared := filepath.Join(at.dir, rules.SharedDir, name)
	if _, missing := os.Lstat(shared); err != nil && missing == nil && rules.IsSharedList(shared) {
		return shared, nil
	}
	if err != nil {
		return "", usagef("%s is neither a file nor a VM: %v, in %s", name, err, at.dir)
	}
	return file.Path, nil
}
