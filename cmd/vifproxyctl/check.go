package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// check is the verb check: it needs no daemon. With a tinyproxy at hand, that is asked about every pattern.
func check(c *call) error {
	l := &linter{call: c, findings: []rules.Finding{}}
	if err := l.template(); err != nil {
		return err
	}
	paths := c.names
	if len(paths) == 0 {
		set, err := rules.Read(c.rulesDir, c.templatePath())
		if err != nil {
			return err
		}
		for _, f := range set.Files {
			paths = append(paths, f.Path)
		}
		for _, r := range set.Refused {
			paths = append(paths, r.Path)
			// What is wrong with more than one file, such as two for one VM, is in none of them.
			if flaw := (*rules.Error)(nil); errors.As(r.Err, &flaw) && flaw.Line == 0 {
				l.add(rules.Finding{Path: r.Path, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true})
			}
		}
		slices.Sort(paths)
	}
	for _, path := range paths {
		if filepath.Base(path) == filepath.Base(c.templatePath()) {
			continue // read already
		}
		l.file(path)
	}
	if len(l.black) > 0 {
		fmt.Fprintf(c.stderr, "vifproxyctl: black lists, by FilterDefaultDeny No in %s: the VMs reach all hosts but those in %s\n",
			safe(c.templatePath()), safe(strings.Join(l.black, ", ")))
	}
	if l.untried != nil {
		fmt.Fprintf(c.stderr, "vifproxyctl: patterns were not tried: %s\n", safe(l.untried.Error()))
	}
	if err := l.print(); err != nil {
		return err
	}
	if len(l.findings) > 0 {
		return errTrouble
	}
	return nil
}

// linter is one run of check.
type linter struct {
	*call
	check    rules.Check
	judge    tinyproxy.Judge
	config   string // as tinyproxy gets it
	untried  error  // why no tinyproxy was asked
	findings []rules.Finding
	black    []string // files that name what is forbidden
}

func (l *linter) add(f rules.Finding) {
	same := func(g rules.Finding) bool { return g.Path == f.Path && g.Line == f.Line && g.Problem == f.Problem }
	if !slices.ContainsFunc(l.findings, same) {
		l.findings = append(l.findings, f)
	}
}

// template reads the template, which decides how rule files are read: that of the first file's directory when files
// are named.
func (l *linter) template() error {
	if len(l.names) > 0 && l.call.template == "" {
		l.call.template = filepath.Join(filepath.Dir(l.names[0]), "config")
	}
	path := l.templatePath()
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
	config, rendered, err := configOf(t)
	if err != nil {
		l.add(rules.Finding{Path: path, Problem: strings.TrimPrefix(err.Error(), path+":"), Refused: true})
	}
	filter := config.Filter
	l.config = rendered
	l.check, l.judge = checkFor(filter), tinyproxy.Judge{Binary: l.tinyproxy, Filter: filter.Compiled()}
	if text != nil {
		for _, f := range l.check.Template(path, string(text)) {
			l.add(f)
		}
	}
	return nil
}

// failed makes a finding of why a file cannot be checked: it is no reason to be silent about the others.
func (l *linter) failed(path string, err error) {
	f := rules.Finding{Path: path, Problem: err.Error(), Refused: true}
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
			if !slices.Equal(content, old) {
				fmt.Fprintf(l.stderr, "vifproxyctl: fixed %s\n", safe(path))
			}
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
	slices.SortStableFunc(found, func(a, b rules.Finding) int { return a.Line - b.Line })
	for _, f := range found {
		if text := lines[f.Line]; f.Admits != "" && text != nil && l.untried == nil {
			admits, err := l.judge.Any(context.Background(), text, visits(f.Admits))
			if err != nil || !admits[0] {
				f.Admits = ""
			}
		}
		l.add(f)
	}
}

func visits(host string) []tinyproxy.Question {
	return []tinyproxy.Question{{Method: http.MethodGet, Target: "http://" + host + "/"}}
}

// try has tinyproxy read the lines of a file, and finds those that it refuses. It returns what it reads, by line of
// the file.
func (l *linter) try(path string, content []byte) (bad []rules.Finding, byLine map[int][]string, err error) {
	file, err := rules.ParseFile(path, content)
	if err != nil {
		return nil, nil, nil // said already
	}
	lines, err := file.Lines(l.check.Syntax)
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
		bad = []rules.Finding{{Path: path, Line: flaw.Line, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true}}
		return bad, nil, nil
	}
	byLine = map[int][]string{}
	var texts []string
	for _, line := range lines {
		if addr, misleads := tinyproxy.MisleadsUpstream(line.Text, l.config); misleads && !l.check.Forbid && !l.check.URLs {
			bad = append(bad, rules.Finding{Path: path, Line: line.Line, Problem: tinyproxy.Misled(addr),
				Source: strings.Split(string(content), "\n")[line.Line-1], Remedy: tinyproxy.NotMisled(addr), Refused: true})
		}
		texts = append(texts, line.Text)
		byLine[line.Line] = append(byLine[line.Line], line.Text)
	}
	for {
		_, err := l.judge.Any(context.Background(), texts, visits("vifproxy.example"))
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
		bad = append(bad, rules.Finding{Path: path, Line: lines[i].Line, Col: strings.Index(source, texts[i]) + 1,
			Width: len(texts[i]), Source: strings.TrimSuffix(source, "\r"), Problem: "tinyproxy refuses this expression",
			Remedy: "correct it, see regex(7)", Refused: true})
		delete(byLine, lines[i].Line)
		texts, lines = slices.Delete(texts, i, i+1), slices.Delete(lines, i, i+1)
	}
}

func (l *linter) print() error {
	if l.json {
		text, err := document(l.findings)
		if err == nil {
			_, err = l.stdout.Write(text)
		}
		return err
	}
	for _, f := range l.findings {
		if err := printFinding(l.stdout, f); err != nil {
			return err
		}
	}
	return nil
}

// printFinding shows where, what, the line with the offending text underlined, and what to do.
func printFinding(w io.Writer, f rules.Finding) error {
	var b strings.Builder
	b.WriteString(safe(f.Path))
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	if f.Col > 0 {
		fmt.Fprintf(&b, ":%d", f.Col)
	}
	fmt.Fprintf(&b, ": %s\n", safe(f.Problem))
	if source := strings.ReplaceAll(f.Source, "\t", " "); f.Line > 0 && source != "" {
		fmt.Fprintf(&b, "    %s\n", safe(source))
		if from, to := f.Col-1, f.Col-1+f.Width; from >= 0 && to <= len(source) && safe(source) == source {
			fmt.Fprintf(&b, "    %s%s\n", strings.Repeat(" ", utf8.RuneCountInString(source[:from])),
				strings.Repeat("^", max(1, utf8.RuneCountInString(source[from:to]))))
		}
	}
	if f.Admits != "" {
		fmt.Fprintf(&b, "  admits  %s\n", safe(f.Admits))
	}
	for i, line := range f.Better {
		fmt.Fprintf(&b, "  %-6s  %s\n", map[bool]string{true: "write"}[i == 0], safe(line))
	}
	if f.Remedy != "" && f.Better == nil {
		fmt.Fprintf(&b, "  remedy  %s\n", safe(f.Remedy))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
