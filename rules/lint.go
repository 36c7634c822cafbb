package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
)

// A Finding is something in a rule file or a template that its author hardly meant.
type Finding struct {
	Path    string   `json:"path"`
	Line    int      `json:"line"`    // 0 when the file as a whole is meant
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

// Check reads files as a template makes tinyproxy read them.
type Check struct {
	Syntax

	unsaid bool // the file says nothing of its format
	named  bool // nor is there a pattern in it: its lines may be names or patterns
}

// File returns all that is wrong with a rule file.
func (c Check) File(path string, content []byte) []Finding {
	var all []Finding
	refuse := func(flaw *Error, line string) {
		all = append(all, Finding{Path: path, Line: flaw.Line, Col: flaw.Col, Width: 1, Source: line,
			Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true})
	}
	_, addr, err := ParseFileName(path)
	if flaw, ok := err.(*Error); ok {
		refuse(flaw, "")
	} else if !addr.IsValid() {
		refuse(notRuleFile(path), "")
	}
	if len(content) > maxSize {
		refuse(tooLarge(path), "")
		return all
	}
	var f File
	lines := sourceLines(content)
	for i, line := range lines {
		good := len(f.entries)
		flaw := f.add(line, i+1)
		if flaw == nil {
			continue
		}
		f.entries = f.entries[:good]
		flaw.Path, flaw.Line = path, i+1
		refuse(flaw, line)
		last := &all[len(all)-1]
		if meant := directiveMeant(line); meant != "" {
			// What follows is read as it was meant.
			clear := f.add(meant, i+1) == nil
			last.Better, last.Fixable, last.entry = []string{meant}, clear && !c.Forbid, strings.Trim(line, " \t")
			continue
		}
		if f.domains {
			last.entry = withoutComment(line)
			last.Better = NamesMeant(last.entry)
			last.Fixable = last.Better != nil && !c.Forbid
			continue
		}
		// "^bank\.com $": there is one thing that this can have meant.
		if words := strings.Fields(line); len(words) == 2 && words[1] == "$" && flaw.Col > 0 {
			last.Better, last.Fixable, last.entry = []string{words[0] + "$"}, !c.Forbid, strings.Trim(line, " \t")
		}
	}
	if f.domains {
		c.Language = Fnmatch // names and *.names look the same in it
	}
	c.unsaid = f.formatLine == 0
	c.named = c.unsaid && f.allNames()
	for _, found := range f.almostDirectives() {
		found.Path, found.Source, found.Width = path, lines[found.Line-1], len(lines[found.Line-1])
		found.entry = strings.Trim(found.Source, " \t")
		all = append(all, found)
	}
	for _, found := range c.entries(f.entries, f.domains) {
		found.Path, found.Source = path, lines[found.Line-1]
		found.entry, _ = entryOf(found.Source)
		if f.domains {
			found.Col, found.Width = 1, len(found.entry)
		}
		found.Col += strings.Index(found.Source, found.entry)
		all = append(all, found)
	}
	for _, found := range f.besides() {
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

// Parsed returns what File does of a file that was accepted, without the lines that Lines refuses. All of a line that is
// known is its entry.
func (c Check) Parsed(f File) []Finding {
	if f.domains {
		c.Language = Fnmatch
	}
	c.unsaid = f.formatLine == 0
	c.named = c.unsaid && f.allNames()
	used := slices.DeleteFunc(c.entries(f.entries, f.domains), func(found Finding) bool { return found.Refused })
	all := slices.Concat(f.almostDirectives(), used, f.besides())
	source := f.sources()
	for i := range all {
		all[i].Path, all[i].Source = f.Path, secret.Text(source[all[i].Line])
	}
	return all
}

// sources returns the lines of a file that mean something, as they stand in it, by number.
func (f File) sources() map[int]string {
	lines := map[int]string{f.almost.Line: f.almost.Source}
	for _, l := range f.entries {
		lines[l.Line] = l.Source
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
func (f File) allNames() bool {
	return !slices.ContainsFunc(f.entries, func(l Line) bool { return !looksLikeName(l.Text) })
}

// besides returns what is odd about the lines that open something besides hosts. Path is not set.
func (f File) besides() []Finding { return append(f.openings(), f.ports()...) }

// String is a finding on one line, with the line of the file that it is about.
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
	return (&Error{Path: f.Path, Line: f.Line, Text: text, Remedy: remedy}).Error()
}

// entries looks at lines that are right as far as their writing goes. Columns are those within the entry.
func (c Check) entries(lines []Line, domains bool) (all []Finding) {
	shapes := make([]shape, len(lines))
	seen := map[string]int{}
	for i, line := range lines {
		finding := Finding{Line: line.Line, Col: 1, Width: len(line.Text)}
		shapes[i] = c.Language.shapeOf(line.Text)
		if first, again := seen[line.written()]; again {
			finding.Problem, finding.Remedy = fmt.Sprintf("says the same as line %d", first), "remove it"
			finding.Fixable = true
			all = append(all, finding)
			continue
		}
		seen[line.written()] = line.Line
		if !domains {
			all = append(all, c.line(finding, shapes[i])...)
		} else if shapes[i].below && tooWide(shapes[i].domain) && !c.Forbid {
			all = append(all, wide(finding, shapes[i]))
		}
	}
	if c.URLs {
		return all
	}
	first := map[Host]int{} // what is said exactly, and where
	for i, s := range shapes {
		host := Host{c.fold(s.domain), s.below, lines[i].port}
		if _, again := first[host]; s.exact() && !again {
			first[host] = i
		}
	}
	for i, s := range shapes {
		if !s.exact() || lines[i].Line != seen[lines[i].written()] {
			continue // or said already
		}
		host := Host{c.fold(s.domain), s.below, lines[i].port}
		k, covered := first[host], first[host] != i
		for name := host.Name; !covered; {
			_, above, ok := strings.Cut(name, ".")
			if !ok {
				break
			}
			k, covered = first[Host{above, true, host.Port}]
			name = above
		}
		if covered {
			all = append(all, Finding{Line: lines[i].Line, Col: 1, Width: len(s.text), Fixable: true,
				Problem: fmt.Sprintf("adds nothing to line %d", lines[k].Line), Remedy: "remove it"})
		}
	}
	return all
}

// fold makes names equal that are so to tinyproxy.
func (c Check) fold(name string) string {
	if c.CaseSensitive || c.Language == Fnmatch {
		return name
	}
	return strings.ToLower(name)
}

// line finds what is wrong with one line of patterns. f is the finding as far as it is known.
func (c Check) line(f Finding, s shape) []Finding {
	if !c.narrows() {
		return c.pattern(f, s)
	}
	n, flaw := c.narrow(s.text)
	if flaw != nil {
		f.Problem, f.Remedy, f.Refused = flaw.Text, flaw.Remedy, true
		if flaw.Col > 0 {
			f.Col, f.Width = flaw.Col, 1
		}
		return []Finding{f}
	}
	all := c.pattern(f, s)
	switch {
	case n.text != "" && len(all) > 0, len(s.plain) > 0:
		return all
	case c.unsaid && c.Language != Fnmatch && looksLikeName(s.text):
		f.Problem = "matches no host: it is read as a pattern, as the file does not begin with " + quotedFormat
		f.Remedy = "begin the file with " + quotedFormat + ", and write names; or write " + c.Language.nameOf(s.text)
	case n.odd > 0 || n.text == "":
		f.Problem = "no host name has this character"
		f.Remedy = `a host name is letters, digits, '-', '_' and '.', which is written \.; an IPv6 address has its line alone`
		if n.odd > 0 {
			f.Col, f.Width = n.odd, 1
		}
	case !n.exact && c.Language != Fnmatch:
		f.Problem = "stands for more than host names; vifproxy lets nothing else pass, so write that"
		f.Remedy = "write " + hostClass + " for what may be any character of a name"
		switch {
		case s.exact():
			f.Better = s.meant(c.Language)
		case c.Language == Extended || !strings.ContainsAny(n.text, "(){}|+?"):
			f.Better = []string{n.text}
		}
		f.Fixable = f.Better != nil
	default:
		return nil
	}
	return []Finding{f}
}

// quotedFormat is what a file of names begins with.
const quotedFormat = `"#: format domains"`

// almostDirectives finds comments that were meant as directives.
func (f File) almostDirectives() (all []Finding) {
	if f.formatLine > 0 || f.almost.Line == 0 {
		return nil
	}
	return []Finding{{Line: f.almost.Line, Col: 1, Problem: "is a comment, and says nothing of the format", Better: []string{f.almost.Text},
		Remedy: "write " + f.almost.Text}}
}

// Template returns all that is wrong with the text of a template.
func (c Check) Template(path, text string) (all []Finding) {
	_, flaws := parseTemplate(path, text)
	lines := sourceLines([]byte(text))
	for _, flaw := range flaws {
		f := Finding{Path: path, Line: flaw.Line, Col: flaw.Col, Width: 1, Problem: flaw.Text, Remedy: flaw.Remedy, Refused: true}
		if flaw.Line > 0 && secret.Directive(lines[flaw.Line-1]) == lines[flaw.Line-1] {
			f.Source = lines[flaw.Line-1]
		}
		all = append(all, f)
	}
	for i, line := range lines {
		if m := urls.FindStringIndex(line); m != nil && !c.Forbid {
			all = append(all, Finding{Path: path, Line: i + 1, Col: 1, Width: len(line), Source: line,
				Problem: "lines are compared with all of a URL, so what is no host name can pass them",
				Remedy:  "remove it, and list hosts"})
		}
	}
	return all
}

// urls is a directive that makes tinyproxy compare lines with URLs.
var urls = regexp.MustCompile(`(?i)^[ \t]*filterurls[ \t]+(yes|on)[ \t]*$`)
