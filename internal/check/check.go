// Package check reads rule files and their template as vifproxyd does, and finds what is wrong with them and what their author hardly
// meant. Patterns and the template are tried with tinyproxy, if there is one. No daemon is needed.
//
// Concurrency: Run may be called from any goroutine. It starts none.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"vifproxy/internal/policy"
	"vifproxy/internal/secret"
	"vifproxy/rules"
	"vifproxy/rules/lint"
	"vifproxy/tinyproxy"
)

// Config is what a check has to know.
type Config struct {
	Dir       string   // the rule directory
	Template  string   // its path
	Ceiling   string   // its path; "" if there is none
	Paths     []string // of the rule files; nil: all of Dir, unless there are Lists
	Lists     []rules.List
	Tinyproxy string // its path

	// Fix rewrites lines that can have meant one thing only. Changed is called for each file that is rewritten, with the lines that are gone
	// and those that are new, and with what that changes of lines that can be read.
	Fix     bool
	Changed func(path string, edits []string, changes []policy.Change)
}

// A Report is what a check has found.
type Report struct {
	Findings []lint.Finding // not nil
	Files    int            // rule files that were read
	Black    []string       // paths of files that name what is forbidden
	Ports    []string       // files that open ports, and which
	Anywhere []string       // white lists whose proxies may connect to any public address, and why
	Untried  error          // why tinyproxy was not asked about patterns
	Fixed    int            // lines
}

// Run checks the template first, as it decides how rule files are read, and then the rule files.
func Run(ctx context.Context, c Config) (Report, error) {
	k := &checker{Config: c, Report: Report{Findings: []lint.Finding{}}}
	k.readTemplate(ctx)
	k.readCeiling()
	if c.Paths == nil && c.Lists == nil {
		if err := k.directory(); err != nil {
			return Report{}, err
		}
	}
	for _, path := range k.Paths {
		if filepath.Base(path) != filepath.Base(c.Template) { // that was read
			k.Files++
			k.file(ctx, path)
		}
	}
	for _, l := range c.Lists {
		k.Files++
		k.list(l)
	}
	return k.Report, nil
}

// A checker is one run.
type checker struct {
	Config
	Report
	linter   lint.Linter
	judge    tinyproxy.Judge
	template rules.Template
	ceiling  *rules.Ceiling
	config   tinyproxy.Config
	rendered string // the text that tinyproxy gets
}

func (k *checker) add(f lint.Finding) {
	same := func(g lint.Finding) bool { return g.Path == f.Path && g.Line == f.Line && g.Problem == f.Problem }
	if !slices.ContainsFunc(k.Findings, same) {
		k.Findings = append(k.Findings, f)
	}
}

// directory finds all rule files of the directory.
func (k *checker) directory() error {
	set, err := rules.Read(k.Dir, k.Template)
	if err != nil {
		return err
	}
	for _, f := range set.Files {
		k.Paths = append(k.Paths, f.Path)
	}
	for _, r := range set.Ranges {
		if r.Err == nil {
			k.Paths = append(k.Paths, r.Path)
		}
	}
	for _, r := range set.Refused {
		k.Paths = append(k.Paths, r.Path)
		// What is wrong with more than one file, such as two for one VM, is in none of them.
		if flaw := (*rules.Error)(nil); errors.As(r.Err, &flaw) && flaw.Line == 0 {
			k.add(lint.Finding{Path: r.Path, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true})
		}
	}
	slices.Sort(k.Paths)
	return nil
}

// readTemplate reads the template, which decides how rule files are read.
func (k *checker) readTemplate(ctx context.Context) {
	path := k.Template
	t := rules.Builtin()
	text, err := rules.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		k.failed(path, err)
	default:
		if parsed, err := rules.ParseTemplate(path, string(text)); err == nil {
			t = parsed
		}
	}
	k.template = t
	config, rendered, err := policy.ConfigOf(t)
	if err != nil {
		k.add(lint.Finding{Path: path, Problem: strings.TrimPrefix(err.Error(), path+":"), Refused: true})
		k.Fix = false // nobody knows how rule files are read
	}
	filter := config.Filter
	k.config, k.rendered = config, rendered
	k.linter, k.judge = policy.LinterFor(filter), tinyproxy.Judge{Binary: k.Tinyproxy, Filter: filter.Compiled()}
	if text != nil {
		for _, f := range k.linter.Template(path, string(text)) {
			k.add(f)
		}
		if rendered != "" {
			k.tryTemplate(ctx, path, string(text))
		}
	}
}

// readCeiling reads the ceiling.
func (k *checker) readCeiling() {
	var err error
	if k.ceiling, err = rules.ReadCeiling(k.Ceiling); err != nil {
		k.failed(k.Ceiling, err)
	}
}

// tryTemplate makes tinyproxy read the configuration that the template gives. Both have the same lines.
func (k *checker) tryTemplate(ctx context.Context, path, text string) {
	err := k.judge.Takes(ctx, k.rendered)
	bad := (*tinyproxy.BadConfig)(nil)
	if !errors.As(err, &bad) {
		k.Untried = err
		return
	}
	f := lint.Finding{Path: path, Line: bad.Line, Problem: bad.Error(), Remedy: "see tinyproxy.conf(5) of the installed version", Refused: true}
	if lines := strings.Split(text, "\n"); bad.Line > 0 && bad.Line <= len(lines) {
		f.Source = secret.Directive(strings.TrimSuffix(lines[bad.Line-1], "\r"))
		f.Problem = "tinyproxy does not understand this line"
	}
	k.add(f)
}

// failed makes a finding of why a file cannot be checked. The others are checked all the same.
func (k *checker) failed(path string, err error) {
	f := lint.Finding{Path: path, Problem: err.Error(), Refused: true}
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
		f.Path, f.Line, f.Problem, f.Remedy = flaw.Path, flaw.Line, flaw.Text, flaw.Remedy
	} else if errors.Is(err, fs.ErrNotExist) {
		f.Problem = "there is no such file"
	}
	k.add(f)
}

// file checks one rule file.
func (k *checker) file(ctx context.Context, path string) {
	content, err := rules.ReadFile(path)
	if err != nil {
		k.failed(path, err)
		return
	}
	if k.linter.DefaultAllow && k.rendered != "" { // else nobody knows
		k.Black = append(k.Black, path)
	}
	if k.Fix {
		if err := rules.Rewrite(path, func(old []byte) ([]byte, error) {
			content = k.linter.Fix(path, old)
			k.changed(path, old, content)
			return content, nil
		}); err != nil {
			k.failed(path, err)
			return
		}
	}
	found := k.linter.File(path, content)
	bad, err := k.try(ctx, path, content)
	if err != nil && k.Untried == nil {
		k.Untried = err
	}
	found = append(found, bad...)
	slices.SortStableFunc(found, func(a, b lint.Finding) int { return a.Line - b.Line })
	for _, f := range found {
		k.add(f)
	}
}

// list checks a list that is in no file. A person corrects it in dom0, by one command.
func (k *checker) list(l rules.List) {
	file, err := l.Parse()
	if l.Err != nil {
		err = l.Err
	}
	if err == nil {
		_, err = policy.New(file, nil, k.template, policy.Input{Bind: netip.IPv4Unspecified(), Ceiling: k.ceiling})
	}
	if err != nil {
		f := lint.Finding{Path: l.Path, Problem: err.Error(), Refused: true}
		if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
			f.Problem, f.Remedy, f.Line = flaw.Text, flaw.Remedy, flaw.Line
		}
		k.add(f)
		return
	}
	k.opens(file)
	for _, f := range k.linter.Parsed(file) {
		var lines []string
		if f.Better != nil || f.Fixable { // then the line goes
			lines = slices.Replace(slices.Clone(l.Lines), f.Line-1, f.Line, f.Better...)
		}
		if l.Remedy != nil {
			f.Better, f.Remedy = nil, strings.TrimPrefix(f.Remedy+"; "+l.Remedy(lines), "; ")
		}
		k.add(f)
	}
}

// opens notes what a file opens in addition to hosts, and what of it is beyond the ceiling.
func (k *checker) opens(file rules.File) {
	if numbers := openPorts(file); numbers != "" {
		k.Ports = append(k.Ports, file.Path+" opens "+numbers)
	}
	in := policy.Input{Bind: netip.IPv4Unspecified()}
	p, err := policy.New(file, nil, k.template, in)
	if err != nil {
		return // said elsewhere
	}
	if p.AnyAddress != "" && !k.linter.DefaultAllow {
		k.Anywhere = append(k.Anywhere, fmt.Sprintf("%s: %s", file.Path, p.AnyAddress))
	}
	if in.Ceiling = k.ceiling; in.Ceiling != nil {
		if _, err := policy.New(file, nil, k.template, in); err != nil {
			k.failed(file.Path, err)
		}
	}
}

// try has tinyproxy read the lines of a file, and finds those that it refuses.
func (k *checker) try(ctx context.Context, path string, content []byte) (bad []lint.Finding, err error) {
	file, err := rules.ParseFile(path, content)
	if err != nil {
		return nil, nil // said already
	}
	k.opens(file)
	lines, err := file.Lines(k.linter.Syntax)
	if flaw := (*rules.Error)(nil); errors.As(err, &flaw) {
		bad = []lint.Finding{{Path: flaw.Path, Line: flaw.Line, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true}}
		return bad, nil
	}
	var texts []string
	pathOf := func(l rules.Line) string { return cmp.Or(l.Part, path) }
	for _, line := range lines {
		if addr, misleads := k.config.MisleadsUpstream(line.Text); misleads && !k.linter.DefaultAllow && !k.linter.URLs {
			bad = append(bad, lint.Finding{Path: pathOf(line), Line: line.Line, Problem: tinyproxy.Misled(addr),
				Source: line.Source, Remedy: tinyproxy.NotMisled(addr), Refused: true})
		}
		if _, flaw := policy.AsWritten(k.config, line.Text); flaw != nil {
			bad = append(bad, lint.Finding{Path: pathOf(line), Line: line.Line, Problem: flaw.Text, Source: line.Source, Remedy: flaw.Remedy, Refused: true})
		}
		texts = append(texts, line.Text)
	}
	for {
		_, err := k.judge.Any(ctx, texts, []tinyproxy.Request{{Host: "vifproxy.example", Port: 80, URI: "/"}})
		var refused *tinyproxy.BadPattern
		if !errors.As(err, &refused) {
			return bad, err
		}
		i := refused.Line
		if i < 0 {
			i = slices.Index(texts, refused.Text)
		}
		if i < 0 {
			return bad, err
		}
		source := lines[i].Source
		if lines[i].Part == "" {
			source = strings.Split(string(content), "\n")[lines[i].Line-1]
		}
		bad = append(bad, lint.Finding{Path: pathOf(lines[i]), Line: lines[i].Line, Col: strings.Index(source, texts[i]) + 1,
			Width: len(texts[i]), Source: strings.TrimSuffix(source, "\r"), Problem: "tinyproxy refuses this expression",
			Remedy: "correct it, see regex(7)", Refused: true})
		texts, lines = slices.Delete(texts, i, i+1), slices.Delete(lines, i, i+1)
	}
}

// openPorts names the ports that a file opens in addition to those of the web.
func openPorts(file rules.File) string {
	var numbers []uint16
	for _, p := range file.Ports {
		if p.Number != 80 && p.Number != 443 {
			numbers = append(numbers, p.Number)
		}
	}
	slices.Sort(numbers)
	text := strings.Trim(fmt.Sprint(slices.Compact(numbers)), "[]")
	switch {
	case text == "":
		return ""
	case strings.Contains(text, " "):
		return "ports " + strings.ReplaceAll(text, " ", ", ")
	}
	return "port " + text
}
