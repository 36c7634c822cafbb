// Package lint finds what the author of a rule file or a template hardly meant, and what to write instead. It decides nothing:
// only tinyproxy says what a line matches.
//
// Concurrency: its functions may be called from any goroutine.
package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
	"vifproxy/rules/hostname"
	"vifproxy/rules/shape"
)

// A Finding is something in a rule file or a template that its author hardly meant.
type Finding struct {
	Path    string   `json:"path"`
	Line    int      `json:"line"`    // 0 if the file as a whole is meant
	Col     int      `json:"col"`     // from 1, in bytes
	Width   int      `json:"width"`   // of the offending text, in bytes
	Source  string   `json:"source"`  // the line
	Problem string   `json:"problem"` // what is wrong
	Remedy  string   `json:"remedy"`
	Admits  string   `json:"admits"` // a host that gets through and should not; "" if none is known
	Better  []string `json:"better"` // the line, or lines, to write instead
	Fixable bool     `json:"fixable"`
	Refused bool     `json:"refused"` // the whole file is not used because of it

	entry string // the part of Source that is rewritten, Better in its place
}

// A Linter reads files as a template makes tinyproxy read them.
type Linter struct {
	rules.Syntax

	unsaid bool // the file does not say its format
	named  bool // and all its lines look like names: they may be names or patterns
}

// File returns all that is wrong with a rule file.
func (l Linter) File(path string, content []byte) []Finding {
	f, flawed := rules.ReadAll(path, content)
	lines := rules.SourceLines(content)
	var all []Finding
	for _, flaw := range flawed {
		found := Finding{Path: path, Line: flaw.Line, Col: flaw.Col, Width: 1, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true,
			Better: flaw.Meant, entry: flaw.Part, Fixable: flaw.Certain && !l.DefaultAllow}
		if flaw.Path != path { // of a list that it includes
			found.Path, found.Better, found.Fixable = flaw.Path, nil, false
		} else if flaw.Line > 0 {
			found.Source = lines[flaw.Line-1]
		}
		all = append(all, found)
	}
	parts := f.Parts()
	for _, part := range parts[1:] {
		for _, found := range l.part(part) {
			found.Fixable = false
			all = append(all, found)
		}
	}
	f, l = parts[0], l.of(f)
	for _, found := range almostDirectives(f) {
		found.Path, found.Source, found.Width = path, lines[found.Line-1], len(lines[found.Line-1])
		found.entry = strings.Trim(found.Source, " \t")
		all = append(all, found)
	}
	for _, found := range l.entries(f) {
		found.Path, found.Source = path, lines[found.Line-1]
		found.entry, _ = rules.EntryOf(found.Source)
		if f.Names() {
			found.Col, found.Width = 1, len(found.entry)
		}
		found.Col += strings.Index(found.Source, found.entry)
		all = append(all, found)
	}
	for _, found := range besides(f) {
		found.Path, found.Source = path, lines[found.Line-1]
		found.Width = len(found.Source)
		all = append(all, found)
	}
	for i, found := range all {
		if secret.Text(found.Source) != found.Source { // somebody wrote an Upstream into a rule file
			all[i].Source = ""
		}
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return a.Line - b.Line })
	return all
}

// Parsed returns what File returns for a file that was accepted, but for the lines that Lines refuses. Columns are those within
// an entry.
func (l Linter) Parsed(f rules.File) (all []Finding) {
	l = l.of(f)
	for _, part := range f.Parts() {
		all = append(all, l.part(part)...)
	}
	return all
}

// part returns the findings about a file, or about a list that it includes.
func (l Linter) part(f rules.File) []Finding {
	l = l.of(f)
	used := slices.DeleteFunc(l.entries(f), func(found Finding) bool { return found.Refused })
	all := slices.Concat(almostDirectives(f), used, besides(f))
	source := sources(f)
	for i := range all {
		all[i].Path, all[i].Source = f.Path, secret.Text(source[all[i].Line])
	}
	return all
}

// of returns the linter for the format of a file.
func (l Linter) of(f rules.File) Linter {
	if f.Names() {
		l.Language = expression.Fnmatch // names and *.names look the same in it
	}
	l.unsaid = !f.SaysFormat()
	l.named = l.unsaid && allNames(f)
	return l
}

// sources returns the lines of a file that mean something, as they are in it, by number.
func sources(f rules.File) map[int]string {
	almost := f.AlmostFormat()
	lines := map[int]string{almost.Line: almost.Source}
	for _, e := range f.Entries() {
		lines[e.Line] = e.Source
	}
	for _, e := range f.Egress {
		lines[e.Line] = e.Text
	}
	for _, p := range f.Ports {
		lines[p.Line] = p.Text
	}
	return lines
}

// allNames reports whether all lines of a file look like names.
func allNames(f rules.File) bool {
	return !slices.ContainsFunc(f.Entries(), func(l rules.Line) bool { return !looksLikeName(l.Text) })
}

// besides returns findings about the lines that open networks and ports. Path is not set.
func besides(f rules.File) []Finding { return append(openings(f), ports(f)...) }

// String returns the finding on one line, with the line of the file that it is about.
func (f Finding) String() string {
	text := f.Problem
	if f.Source != "" {
		text = terminal.Quote(f.Source) + ": " + text
	}
	if f.Admits != "" {
		text += ", and admits " + f.Admits
	}
	remedy := f.Remedy
	if f.Better != nil {
		remedy = "write " + strings.Join(f.Better, " and ")
	}
	return (&rules.Error{Path: f.Path, Line: f.Line, Flaw: flaws.Flaw{Text: text, Remedy: remedy}}).Error()
}

// entries returns findings about lines without a flaw. Columns are those within the entry.
func (l Linter) entries(f rules.File) (all []Finding) {
	lines := f.Entries()
	shapes := make([]shape.Shape, len(lines))
	seen := map[string]int{}
	for i, line := range lines {
		finding := Finding{Line: line.Line, Col: 1, Width: len(line.Text)}
		shapes[i] = shape.Of(l.Language, line.Text)
		if first, again := seen[line.Entry()]; again {
			finding.Problem, finding.Remedy = fmt.Sprintf("says the same as line %d", first), "remove it"
			finding.Fixable = true
			all = append(all, finding)
			continue
		}
		seen[line.Entry()] = line.Line
		if !f.Names() {
			all = append(all, l.line(finding, shapes[i])...)
		} else if shapes[i].Below && hostname.TooWide(shapes[i].Domain) && !l.DefaultAllow {
			all = append(all, tooWideFinding(finding, shapes[i]))
		}
	}
	if l.URLs {
		return all
	}
	return append(all, l.covered(lines, shapes, seen)...)
}

// covered returns findings about lines that add nothing to another one. shapes are those of the lines. Lines that are said again, which is
// a finding of its own, are left out: said has the number of the first line of each.
func (l Linter) covered(lines []rules.Line, shapes []shape.Shape, said map[string]int) (all []Finding) {
	hostOf := func(i int) rules.Host {
		return rules.Host{Name: l.fold(shapes[i].Domain), Below: shapes[i].Below, Port: lines[i].Port}
	}
	first := map[rules.Host]int{} // what is said exactly, and where
	for i, s := range shapes {
		if _, again := first[hostOf(i)]; s.Exact() && !again {
			first[hostOf(i)] = i
		}
	}
	for i, s := range shapes {
		if !s.Exact() || lines[i].Line != said[lines[i].Entry()] {
			continue
		}
		host := hostOf(i)
		by, covered := first[host], first[host] != i
		for name := host.Name; !covered; {
			_, above, ok := strings.Cut(name, ".")
			if !ok {
				break
			}
			by, covered = first[rules.Host{Name: above, Below: true, Port: host.Port}]
			name = above
		}
		if covered {
			all = append(all, Finding{Line: lines[i].Line, Col: 1, Width: len(s.Text), Fixable: true,
				Problem: fmt.Sprintf("adds nothing to line %d", lines[by].Line), Remedy: "remove it"})
		}
	}
	return all
}

// fold returns a name in lower case if tinyproxy does not distinguish case.
func (l Linter) fold(name string) string {
	if l.CaseSensitive || l.Language == expression.Fnmatch {
		return name
	}
	return strings.ToLower(name)
}

// line returns findings about one line of patterns. f is the finding as far as it is known.
func (l Linter) line(f Finding, s shape.Shape) []Finding {
	if !l.Narrows() {
		return l.pattern(f, s)
	}
	n, flaw := expression.Compile(s.Text, l.Language, l.CaseSensitive)
	if flaw != nil {
		f.Problem, f.Remedy, f.Refused = flaw.Text, flaw.Remedy, true
		if flaw.Col > 0 {
			f.Col, f.Width = flaw.Col, 1
		}
		return []Finding{f}
	}
	all := l.pattern(f, s)
	switch {
	case n.Text != "" && len(all) > 0, len(s.Plain) > 0:
		return all
	case l.unsaid && l.Language != expression.Fnmatch && looksLikeName(s.Text):
		f.Problem = "matches no host: it is read as a pattern, as the file does not begin with " + quotedFormat
		f.Remedy = "begin the file with " + quotedFormat + ", and write names; or write " + nameOf(l.Language, s.Text)
	case n.Odd > 0 || n.Text == "":
		f.Problem = "no host name has this character"
		f.Remedy = `a host name is letters, digits, '-', '_' and '.', which is written \.; an IPv6 address has its line alone`
		if n.Odd > 0 {
			f.Col, f.Width = n.Odd, 1
		}
	case !n.Exact && l.Language != expression.Fnmatch:
		f.Problem = "stands for more than host names; vifproxy lets nothing else pass, so write that"
		f.Remedy = "write " + expression.HostClass + " for what may be any character of a name"
		switch {
		case s.Exact():
			f.Better = s.Meant(l.Language)
		case l.Language == expression.Extended || !strings.ContainsAny(n.Text, "(){}|+?"):
			f.Better = []string{n.Text}
		}
		f.Fixable = f.Better != nil
	default:
		return nil
	}
	return []Finding{f}
}

// quotedFormat is the directive that a list of names begins with.
const quotedFormat = `"#: format domains"`

// almostDirectives returns findings about comments that were meant as directives.
func almostDirectives(f rules.File) (all []Finding) {
	almost := f.AlmostFormat()
	if f.SaysFormat() || almost.Line == 0 {
		return nil
	}
	return []Finding{{Line: almost.Line, Col: 1, Problem: "is a comment, and says nothing of the format", Better: []string{almost.Text},
		Remedy: "write " + almost.Text}}
}

// Template returns all that is wrong with the text of a template.
func (l Linter) Template(path, text string) (all []Finding) {
	_, flawed := rules.ReadTemplate(path, text)
	lines := rules.SourceLines([]byte(text))
	for _, flaw := range flawed {
		f := Finding{Path: path, Line: flaw.Line, Col: flaw.Col, Width: 1, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true}
		if flaw.Line > 0 && secret.Directive(lines[flaw.Line-1]) == lines[flaw.Line-1] {
			f.Source = lines[flaw.Line-1]
		}
		all = append(all, f)
	}
	for i, line := range lines {
		if m := urls.FindStringIndex(line); m != nil && !l.DefaultAllow {
			all = append(all, Finding{Path: path, Line: i + 1, Col: 1, Width: len(line), Source: line,
				Problem: "lines are compared with all of a URL, so what is no host name can pass them",
				Remedy:  "remove it, and list hosts"})
		}
	}
	return all
}

// urls matches the directive that makes tinyproxy compare lines with URLs.
var urls = regexp.MustCompile(`(?i)^[ \t]*filterurls[ \t]+(yes|on)[ \t]*$`)
