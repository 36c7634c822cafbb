package main

import (
	"errors"
	"flag"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/internal/defaults"
	"vifproxy/internal/policy"
	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
	"vifproxy/rules/lint"
	"vifproxy/tinyproxy"
)

func checkVerb() verb {
	return verb{
		name: "check", args: "[FILE|NAME|DIR...]", most: math.MaxInt, json: true,
		options: func(f *flag.FlagSet) action {
			var o checkOptions
			o.files.define(f)
			f.StringVar(&o.tinyproxy, "tinyproxy", defaults.Tinyproxy, "`PATH` of tinyproxy ("+defaults.Tinyproxy+")")
			f.BoolVar(&o.fix, "fix", false, `rewrite lines that can have meant one thing only, as a URL among names, remove those that add nothing, `+
				`and show both. What can mean two things stays, as names without "#: format domains". No line allows a host that it did not, `+
				`but a file that was refused may become valid, and then all its lines are in force.`)
			return func(c *call) error { return runCheck(c, o) }
		},
		summary: "Find mistakes in rule files and template.",
		help: `All files of the directory that vifproxyd reads are read, or those of DIR, or the named ones, with
the template "config" next to them. No vifproxyd is needed. Patterns and the template are
tried with tinyproxy (/usr/bin/tinyproxy), if there is one. The exit status is 0 if nothing is
wrong, and 1 otherwise, also if there are no rule files.
`,
	}
}

type checkOptions struct {
	files     fileOptions
	tinyproxy string
	fix       bool
}

// runCheck needs no daemon. With a tinyproxy at hand, that is asked about every pattern.
func runCheck(c *call, o checkOptions) error {
	l := &linter{call: c, checkOptions: o, findings: []lint.Finding{}}
	paths, err := l.locate()
	if err != nil {
		return err
	}
	if err := l.readTemplate(); err != nil {
		return err
	}
	if paths == nil {
		if paths, err = l.directory(); err != nil {
			return err
		}
	}
	for _, path := range paths {
		if filepath.Base(path) == filepath.Base(l.at.template) {
			continue // read already
		}
		l.file(path)
	}
	if len(l.black) > 0 {
		c.warn("black lists, by FilterDefaultDeny No in %s: the VMs reach all hosts but those in %s", l.at.template,
			strings.Join(l.black, ", "))
	}
	for _, ports := range l.ports {
		c.warn("%s for all hosts of the list, as tinyproxy ties none to one host", ports)
	}
	if l.untried != nil {
		c.warn("patterns were not tried: %v", l.untried)
	}
	if l.fix && l.fixed == 0 && len(l.findings) > 0 {
		c.warn("nothing was changed: each mistake that was found can mean more than one thing")
	}
	if err := c.print(l.findings, lintText(l.findings, terminal.Width(c.stdout))); err != nil {
		return err
	}
	if len(l.findings) > 0 || l.empty {
		return errTrouble
	}
	return nil
}

// locate finds the files that are meant: those that are named, by path or by VM, or nil for all of a directory.
func (l *linter) locate() (paths []string, err error) {
	switch dir := slices.IndexFunc(l.args, isRuleDir); {
	case dir >= 0 && len(l.args) > 1:
		return nil, usagef("%s is a directory: check one directory, or files and VMs", l.args[dir])
	case dir >= 0:
		l.at = l.placeIn(l.args[dir])
		return nil, nil
	case len(l.args) == 0:
		l.at = l.call.place(l.files)
		return nil, nil
	}
	for _, name := range l.args {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, "/") {
			if l.at.dir == "" {
				l.at = l.call.place(l.files)
			}
			path, err := l.ofVM(name)
			if err != nil {
				return nil, err
			}
			name = path
		}
		paths = append(paths, name)
	}
	if l.at.dir == "" { // the template is that of the first file
		l.at = l.placeIn(filepath.Dir(paths[0]))
	}
	return paths, nil
}

// placeIn returns the place whose rule directory is dir.
func (l *linter) placeIn(dir string) place {
	return l.placeOf(fileOptions{rulesDir: dir, template: l.files.template})
}

// isRuleDir reports whether a path leads to a directory, and to none that stands where a rule file should.
func isRuleDir(path string) bool {
	info, err := os.Stat(path)
	_, addr, wrong := rules.ParseFileName(path)
	return err == nil && info.IsDir() && wrong == nil && !addr.IsValid()
}

// ofVM returns the rule file of a VM, in whatever state it is. The VM may be named with its address, as its file is.
func (l *linter) ofVM(name string) (string, error) {
	if _, addr, wrong := rules.ParseFileName(name); addr.IsValid() || wrong != nil {
		path := filepath.Join(l.at.dir, name)
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		}
	}
	set, err := rules.Read(l.at.dir, l.at.template)
	if err != nil {
		return "", err
	}
	for _, r := range set.Refused {
		if r.Name == name {
			return r.Path, nil
		}
	}
	file, err := set.Find(name)
	if err != nil {
		return "", usagef("%s is neither a file nor a VM: %v, in %s", name, err, l.at.dir)
	}
	return file.Path, nil
}

// directory returns all rule files of the directory, and tells which files were meant as such.
func (l *linter) directory() (paths []string, err error) {
	set, err := rules.Read(l.at.dir, l.at.template)
	if err != nil {
		return nil, err
	}
	for _, f := range set.Files {
		paths = append(paths, f.Path)
	}
	for _, r := range set.Refused {
		paths = append(paths, r.Path)
		// What is wrong with more than one file, such as two for one VM, is in none of them.
		if flaw := (*rules.Error)(nil); errors.As(r.Err, &flaw) && flaw.Line == 0 {
			l.add(lint.Finding{Path: r.Path, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true})
		}
	}
	slices.Sort(paths)
	l.empty = len(paths) == 0
	for _, text := range rules.Unread(l.at.dir, len(paths)) {
		l.warn("%s", text)
	}
	return paths, nil
}

// linter is one run of check.
type linter struct {
	*call
	checkOptions
	at       place
	check    lint.Linter
	judge    tinyproxy.Judge
	config   tinyproxy.Config
	rendered string // the text that tinyproxy gets
	untried  error  // why no tinyproxy was asked
	findings []lint.Finding
	black    []string // files that name what is forbidden
	ports    []string // files that open ports, and which
	fixed    int      // lines
	empty    bool     // the directory has no rule files
}

func (l *linter) add(f lint.Finding) {
	same := func(g lint.Finding) bool { return g.Path == f.Path && g.Line == f.Line && g.Problem == f.Problem }
	if !slices.ContainsFunc(l.findings, same) {
		l.findings = append(l.findings, f)
	}
}

// readTemplate reads the template, which decides how rule files are read.
func (l *linter) readTemplate() error {
	path := l.at.template
	t := rules.Builtin()
	text, err := rules.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		l.failed(path, err)
	default:
		if parsed, err := rules.ParseTemplate(path, string(text)); err == nil {
			t = parsed
		}
	}
	config, rendered, err := policy.ConfigOf(t)
	if err != nil {
		l.add(lint.Finding{Path: path, Problem: strings.TrimPrefix(err.Error(), path+":"), Refused: true})
	}
	filter := config.Filter
	l.config, l.rendered = config, rendered
	l.check, l.judge = policy.LinterFor(filter), tinyproxy.Judge{Binary: l.tinyproxy, Filter: filter.Compiled()}
	if text != nil {
		for _, f := range l.check.Template(path, string(text)) {
			l.add(f)
		}
		if rendered != "" {
			l.tryTemplate(path, string(text))
		}
	}
	return nil
}

// tryTemplate has tinyproxy read what the template makes of a configuration. Their lines are the same.
func (l *linter) tryTemplate(path, text string) {
	err := l.judge.Takes(l.ctx, l.rendered)
	bad := (*tinyproxy.BadConfig)(nil)
	if !errors.As(err, &bad) {
		l.untried = err
		return
	}
	f := lint.Finding{Path: path, Line: bad.Line, Problem: bad.Error(), Remedy: "see tinyproxy.conf(5) of the installed version", Refused: true}
	if lines := strings.Split(text, "\n"); bad.Line > 0 && bad.Line <= len(lines) {
		f.Source = secret.Directive(strings.TrimSuffix(lines[bad.Line-1], "\r"))
		f.Problem = "tinyproxy does not understand this line"
	}
	l.add(f)
}

// failed makes a finding of why a file cannot be checked: it is no reason to be silent about the others.
func (l *linter) failed(path string, err error) {
	f := lint.Finding{Path: path, Problem: err.Error(), Refused: true}
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
		f.Problem, f.Remedy = flaw.Text, flaw.Remedy
	} else if errors.Is(err, fs.ErrNotExist) {
		f.Problem = "there is no such file"
	}
	l.add(f)
}

func (l *linter) file(path string) {
	content, err := rules.ReadFile(path)
	if err != nil {
		l.failed(path, err)
		return
	}
	if l.check.Forbid {
		l.black = append(l.black, path)
	}
	if l.fix {
		if err := rules.Rewrite(path, func(old []byte) ([]byte, error) {
			content = l.check.Fix(path, old)
			l.changed(path, old, content)
			return content, nil
		}); err != nil {
			l.failed(path, err)
			return
		}
	}
	found := l.check.File(path, content)
	bad, lines, err := l.try(path, content)
	if err != nil && l.untried == nil {
		l.untried = err
	}
	found = append(found, bad...)
	slices.SortStableFunc(found, func(a, b lint.Finding) int { return a.Line - b.Line })
	for _, f := range found {
		if text := lines[f.Line]; f.Admits != "" && text != nil && l.untried == nil {
			admits, err := l.judge.Any(l.ctx, text, visits(f.Admits))
			if err != nil || !admits[0] {
				f.Admits = ""
			}
		}
		l.add(f)
	}
}

func visits(host string) []tinyproxy.Request {
	return []tinyproxy.Request{{Host: host, Port: 80, URI: "/"}}
}

// try has tinyproxy read the lines of a file, and finds those that it refuses. It returns what it reads, by line of
// the file.
func (l *linter) try(path string, content []byte) (bad []lint.Finding, byLine map[int][]string, err error) {
	file, err := rules.ParseFile(path, content)
	if err != nil {
		return nil, nil, nil // said already
	}
	if numbers := openPorts(file); numbers != "" {
		l.ports = append(l.ports, path+" opens "+numbers)
	}
	lines, err := file.Lines(l.check.Syntax)
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
		bad = []lint.Finding{{Path: path, Line: flaw.Line, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true}}
		return bad, nil, nil
	}
	byLine = map[int][]string{}
	var texts []string
	for _, line := range lines {
		if addr, misleads := l.config.MisleadsUpstream(line.Text); misleads && !l.check.Forbid && !l.check.URLs {
			bad = append(bad, lint.Finding{Path: path, Line: line.Line, Problem: tinyproxy.Misled(addr),
				Source: strings.Split(string(content), "\n")[line.Line-1], Remedy: tinyproxy.NotMisled(addr), Refused: true})
		}
		texts = append(texts, line.Text)
		byLine[line.Line] = append(byLine[line.Line], line.Text)
	}
	for {
		_, err := l.judge.Any(l.ctx, texts, visits("vifproxy.example"))
		var refused *tinyproxy.BadPattern
		if !errors.As(err, &refused) {
			return bad, byLine, err
		}
		i := refused.Line
		if i < 0 {
			i = slices.Index(texts, refused.Text)
		}
		if i < 0 {
			return bad, byLine, err
		}
		source := strings.Split(string(content), "\n")[lines[i].Line-1]
		bad = append(bad, lint.Finding{Path: path, Line: lines[i].Line, Col: strings.Index(source, texts[i]) + 1,
			Width: len(texts[i]), Source: strings.TrimSuffix(source, "\r"), Problem: "tinyproxy refuses this expression",
			Remedy: "correct it, see regex(7)", Refused: true})
		delete(byLine, lines[i].Line)
		texts, lines = slices.Delete(texts, i, i+1), slices.Delete(lines, i, i+1)
	}
}
