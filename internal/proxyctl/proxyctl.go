// Package proxyctl takes over a set-up of proxyctl.py, the script of the Qubes page on HTTP filtering proxies: its rule files, its
// template, and the script itself.
//
// Concurrency: Import may be called from any goroutine. It starts none.
package proxyctl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/internal/notroot"
	"vifproxy/internal/policy"
	"vifproxy/internal/regular"
	"vifproxy/rules"
)

const (
	// Script is the name of the script. A link of this name to vifproxyctl knows the script's verbs.
	Script     = "proxyctl.py"
	keptScript = Script + ".old"
)

// hooks are the files, next to the rule directory, into which people have written the line that runs the script.
var hooks = []string{"qubes-firewall-user-script", "qubes-firewall.d/*", "qubes-ip-change-hook", "rc.local"}

// Config is what Import has to know.
type Config struct {
	From, To string // rule directories: of the script, and of vifproxyd
	Apply    bool   // do what is reported as to be done
	Report   func(Finding)
}

// A Mark says what a finding is.
type Mark string

const (
	Seen  Mark = ""
	Todo  Mark = "+" // what Apply does
	Wrong Mark = "!" // what a person has to do
)

// A Finding is one thing that Import has found or done.
type Finding struct {
	Mark Mark
	Text string
}

// Result counts findings.
type Result struct{ Found, Todo, Wrong int }

// Import reports what it recognises of a set-up and what is wrong with it. With Apply it copies what is good, and replaces the script
// by a link to the running program.
func Import(c Config) (Result, error) {
	i := &importer{Config: c}
	for _, step := range []func() error{i.ruleFiles, i.script, i.callers} {
		if err := step(); err != nil {
			return i.result, err
		}
	}
	return i.result, nil
}

type importer struct {
	Config
	result Result
}

func (i *importer) report(mark Mark, format string, args ...any) {
	switch mark {
	case Todo:
		i.result.Todo++
	case Wrong:
		i.result.Wrong++
	}
	i.Report(Finding{mark, fmt.Sprintf(format, args...)})
}

// ruleFiles checks the template and the rule files just as vifproxyd reads them.
func (i *importer) ruleFiles() error {
	template := filepath.Join(i.From, defaults.TemplateName)
	set, err := rules.Read(i.From, template)
	if err != nil {
		return err
	}
	switch {
	case set.TemplateErr != nil:
		i.result.Found++
		i.report(Wrong, "%v", set.TemplateErr)
	case set.Template.Path != "":
		i.result.Found++
		i.report(Seen, "%s: the template of all proxies", template)
		if err := i.take(template); err != nil {
			return err
		}
	}
	for _, refused := range set.Refused {
		i.result.Found++
		i.report(Wrong, "%v", refused.Err)
	}
	filter, filterErr := policy.FilterOf(set.Template)
	for _, file := range set.Files {
		i.result.Found++
		i.report(Seen, "%s: what %s (%s) may reach", file.Path, file.Name, file.Addr)
		if err := i.take(file.Path); err != nil {
			return err
		}
		if filterErr != nil || set.TemplateErr != nil {
			continue
		}
		if found := policy.LinterFor(filter).Parsed(file); len(found) > 0 {
			i.report(Seen, "%d lines permit more than they seem to, or nothing: vifproxyctl check %s", len(found), file.Path)
		}
	}
	return nil
}

// take copies a file to where vifproxyd reads it. It never replaces one that says something else.
func (i *importer) take(path string) error {
	if i.From == i.To {
		if notroot.Unreadable(path) {
			i.report(Wrong, "%s: only its owner may read it, and %s (%s)", path, notroot.InGroup, notroot.MakeReadable)
		}
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	target := filepath.Join(i.To, filepath.Base(path))
	there, err := os.ReadFile(target)
	switch {
	case err == nil && bytes.Equal(there, content):
		return nil
	case err == nil:
		i.report(Wrong, "%s is there already and says something else: compare it with %s, and remove one", target, path)
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if !i.Apply {
		i.report(Todo, "copy it to %s", target)
		return nil
	}
	if err := os.MkdirAll(i.To, 0o755); err != nil {
		return err
	}
	if err := regular.WriteNew(target, content); err != nil {
		return err
	}
	i.report(Todo, "copied to %s", target)
	return nil
}

// script replaces proxyctl.py by a link to this program, which knows its verbs.
func (i *importer) script() error {
	path := filepath.Join(i.From, Script)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err != nil {
		return err
	}
	i.result.Found++
	i.report(Seen, "%s: the old script; vifproxyctl knows its verbs under that name too", path)
	if !i.Apply {
		i.report(Todo, "keep it as %s, and make a link to vifproxyctl of it", keptScript)
		return nil
	}
	kept := filepath.Join(i.From, keptScript)
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
	i.report(Todo, "kept as %s; %s is a link to vifproxyctl now", keptScript, Script)
	return nil
}

// callers finds the lines that ran the old script. It leaves them: they may be part of something that only their author understands, and
// they do no harm once the script is a link.
func (i *importer) callers() error {
	for _, hook := range hooks {
		paths, err := filepath.Glob(filepath.Join(filepath.Dir(i.From), hook))
		if err != nil {
			return err
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
				continue // it cannot be run
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines := bufio.NewScanner(bytes.NewReader(content))
			for n := 1; lines.Scan(); n++ {
				if text := strings.TrimSpace(lines.Text()); strings.Contains(text, Script) && !strings.HasPrefix(text, "#") {
					i.report(Wrong, "%s:%d: drop this line, vifproxyd needs no call: %s", path, n, text)
				}
			}
			if err := lines.Err(); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}
