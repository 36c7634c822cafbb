package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/internal/notroot"
	"vifproxy/internal/policy"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

// The script of a set-up of proxyctl.py, as the Qubes page on HTTP filtering proxies describes it.
const (
	oldScript  = "proxyctl.py"
	keptScript = oldScript + ".old"
)

// hooks are where people have put the line that runs proxyctl.py, beside the rule directory.
var hooks = []string{"qubes-firewall-user-script", "qubes-firewall.d/*", "qubes-ip-change-hook", "rc.local"}

func importVerb() verb {
	return verb{
		name: "import", args: "[PATH]", most: 1,
		options: func(f *flag.FlagSet) action {
			var o importOptions
			f.BoolVar(&o.apply, "apply", false, "do what is marked with +")
			f.StringVar(&o.files.rulesDir, "rules-dir", "", "`DIR` to copy to, instead of the one that vifproxyd reads")
			return func(c *call) error { return runImport(c, o) }
		},
		summary: "Take over a set-up of proxyctl.py, or say what is in its way.",
		help: `PATH (` + defaults.RulesDir + `) is searched for rule files, the template "config" and proxyctl.py, and
the directory above it for scripts that call proxyctl.py. Every finding is explained. Nothing is
changed without --apply; then what is good is copied to DIR, the directory that vifproxyd
reads, unless PATH is DIR, and proxyctl.py becomes a link to vifproxyctl. The exit status is 1 while something
needs your attention. vifproxyd need not run.
`,
	}
}

type importOptions struct {
	files fileOptions
	apply bool
}

// runImport says what it recognises of a set-up of proxyctl.py and what is wrong with it. With --apply it copies what is good. It needs
// no daemon.
func runImport(c *call, o importOptions) error {
	from := defaults.RulesDir
	if len(c.args) > 0 {
		from = c.args[0]
	}
	i := &importer{call: c, apply: o.apply, from: filepath.Clean(from), to: filepath.Clean(c.place(o.files).dir)}
	steps := []func() error{i.ruleFiles, i.script, i.callers}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("import %s: %w", i.from, err)
		}
	}
	switch {
	case i.found == 0:
		return fmt.Errorf("import %s: there are no rule files NAME.IP, no template %s and no %s", i.from, defaults.TemplateName, oldScript)
	case !o.apply && i.todo > 0:
		i.say("", "nothing has been changed: run this again with --apply")
	case o.apply && i.todo > 0:
		i.say("", "what is marked with + has been done; see what the files permit: vifproxyctl check %s", i.to)
		c.warnIfLost(filepath.Join(i.to, defaults.TemplateName))
	}
	if i.wrong > 0 {
		return fmt.Errorf("import %s: %d things need your attention; they are marked with ! above", i.from, i.wrong)
	}
	return nil
}

type importer struct {
	*call
	apply              bool
	from, to           string
	found, todo, wrong int
}

// say prints one finding: mark is "+" for what --apply does, "!" for what a person must do.
func (i *importer) say(mark, format string, args ...any) {
	switch mark {
	case "+":
		i.todo++
	case "!":
		i.wrong++
	}
	fmt.Fprintf(i.stdout, "%1s %s\n", mark, terminal.Quote(fmt.Sprintf(format, args...)))
}

// ruleFiles checks the template and the rule files just as vifproxyd reads them.
func (i *importer) ruleFiles() error {
	template := filepath.Join(i.from, defaults.TemplateName)
	set, err := rules.Read(i.from, template)
	if err != nil {
		return err
	}
	switch {
	case set.TemplateErr != nil:
		i.found++
		i.say("!", "%v", set.TemplateErr)
	case set.Template.Path != "":
		i.found++
		i.say("", "%s: the template of all proxies", template)
		if err := i.take(template); err != nil {
			return err
		}
	}
	for _, refused := range set.Refused {
		i.found++
		i.say("!", "%v", refused.Err)
	}
	filter, filterErr := policy.FilterOf(set.Template)
	for _, file := range set.Files {
		i.found++
		i.say("", "%s: what %s (%s) may reach", file.Path, file.Name, file.Addr)
		if err := i.take(file.Path); err != nil {
			return err
		}
		if filterErr != nil || set.TemplateErr != nil {
			continue
		}
		if found := policy.LinterFor(filter).Parsed(file); len(found) > 0 {
			i.say("", "%d lines permit more than they seem to, or nothing: vifproxyctl check %s", len(found), file.Path)
		}
	}
	return nil
}

// take copies a file to where vifproxyd reads it. It never replaces one that says something else.
func (i *importer) take(path string) error {
	if i.from == i.to {
		if notroot.Unreadable(path) {
			i.say("!", "%s: only its owner may read it, and %s (%s)", path, notroot.InGroup, notroot.MakeReadable)
		}
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	target := filepath.Join(i.to, filepath.Base(path))
	there, err := os.ReadFile(target)
	switch {
	case err == nil && bytes.Equal(there, content):
		return nil
	case err == nil:
		i.say("!", "%s is there already and says something else: compare it with %s, and remove one", target, path)
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if !i.apply {
		i.say("+", "copy it to %s", target)
		return nil
	}
	if err := os.MkdirAll(i.to, 0o755); err != nil {
		return err
	}
	if err := writeNew(target, content); err != nil {
		return err
	}
	i.say("+", "copied to %s", target)
	return nil
}

// writeNew makes a file whole or not at all: vifproxyd must not read half of it. It replaces none.
func writeNew(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".import-*") // hidden: no rule file
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path) // unlike a rename, it fails where something is
}

// script replaces proxyctl.py by a link to this program, which knows its verbs.
func (i *importer) script() error {
	path := filepath.Join(i.from, oldScript)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err != nil {
		return err
	}
	i.found++
	i.say("", "%s: the old script; vifproxyctl knows its verbs under that name too", path)
	if !i.apply {
		i.say("+", "keep it as %s, and make a link to vifproxyctl of it", keptScript)
		return nil
	}
	kept := filepath.Join(i.from, keptScript)
	if _, err := os.Lstat(kept); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keep %s: %s is there already", path, kept)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Rename(path, kept); err != nil {
		return err
	}
	if err := os.Symlink(self, path); err != nil {
		return err
	}
	i.say("+", "kept as %s; %s is a link to vifproxyctl now", keptScript, oldScript)
	return nil
}

// callers finds the lines that ran the old script. They stay: they may be part of something that only their
// author understands, and do no harm once the script is a link.
func (i *importer) callers() error {
	for _, hook := range hooks {
		paths, err := filepath.Glob(filepath.Join(filepath.Dir(i.from), hook))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				continue // nobody can run it
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines := bufio.NewScanner(bytes.NewReader(content))
			for n := 1; lines.Scan(); n++ {
				if text := strings.TrimSpace(lines.Text()); strings.Contains(text, oldScript) && !strings.HasPrefix(text, "#") {
					i.say("!", "%s:%d: drop this line, vifproxyd needs no call: %s", path, n, text)
				}
			}
			if err := lines.Err(); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}
