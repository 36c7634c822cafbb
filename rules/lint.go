package rules

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"vifproxy/internal/secret"
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
		text = printable(f.Source) + ": " + text
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

// pattern finds what is wrong with one pattern, if its characters are those of host names.
func (c Check) pattern(f Finding, s shape) (all []Finding) {
	if len(s.plain) > 0 {
		found, t := f, s.plain[0]
		found.Problem = fmt.Sprintf("%q is a character like any other in a basic regular expression: no host has it", t.c)
		found.Remedy = `write a line for each, or put "FilterExtended Yes" into the template "config"`
		found.Col, found.Width, found.Better = t.pos+1, 1, alternatives(s.text)
		return []Finding{found}
	}
	if c.URLs || c.Forbid {
		return nil
	}
	if branches := c.Language.branches(s.text); len(branches) > 1 {
		return c.alternation(f, branches)
	}
	if len(s.tokens) == 0 && !(s.start && s.end) || len(s.tokens) == 1 && s.tokens[0].kind == anyOne && !s.start {
		return []Finding{wide(f, s)}
	}
	if s.domain != "" && tooWide(s.domain) && s.end && !s.start && (s.below || strings.Contains(s.domain, ".")) {
		return []Finding{wide(f, s)}
	}
	if !c.named {
		f.Better = s.meant(c.Language)
	}
	f.Fixable, f.Admits = f.Better != nil, s.example()
	if s.exact() && f.Better != nil {
		return nil
	}
	// Anchors inside of groups are anchors too.
	start := s.start || s.below || s.odd && strings.Contains(s.text, "^") || len(s.tokens) > 0 && s.tokens[0].c == '.'
	end := s.end || s.odd && strings.Contains(s.text, "$")
	switch {
	case !start && !end && c.unsaid && looksLikeName(s.text):
		f.Problem = "matches anywhere in a name: it is read as a pattern, as the file does not begin with " + quotedFormat
		f.Remedy = "if these are names, begin the file with " + quotedFormat + "; else write " + c.Language.nameOf(s.text)
		return []Finding{f}
	case !start && !end:
		f.Problem = "matches anywhere in a name: it is not anchored"
	case !start:
		f.Problem = "matches the end of other names too: the beginning is not anchored"
	case !end:
		f.Problem = "matches the beginning of other names too: there is no $ at the end"
		if c.Language == Fnmatch {
			f.Problem = "matches the beginning of other names too: it ends with *"
		}
		f.Col = f.Width
		f.Width = 1
	}
	if f.Problem != "" {
		if f.Better == nil {
			f.Remedy = "write the whole name, as in " + c.Language.name("bank.example", false)
		}
		all = append(all, f)
	}
	if n := len(s.dots); n > 0 && !s.odd {
		t := s.dots[0]
		found := f
		found.Problem = "this character stands for any one: a dot is written \\."
		if c.Language == Fnmatch {
			found.Problem = "this character stands for any one"
		}
		found.Col, found.Width = t.pos+1, t.len
		all = append(all, found)
	}
	return all
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

// alternation looks at a top-level "a|b": each side has anchors of its own.
func (c Check) alternation(f Finding, branches []string) []Finding {
	clear := true
	var first *Finding
	for _, text := range branches {
		s := c.Language.shapeOf(text)
		if found := c.pattern(f, s); len(found) > 0 && first == nil {
			first = &found[0]
			first.Problem = excerpt(text) + " " + first.Problem
			first.Col, first.Width = f.Col, f.Width
		}
		meant := s.meant(c.Language)
		clear = clear && meant != nil
		f.Better = append(f.Better, meant...)
	}
	if first == nil {
		return nil
	}
	first.Better, first.Fixable = nil, clear
	if clear {
		first.Better = f.Better
	}
	return []Finding{*first}
}

func wide(f Finding, s shape) Finding {
	f.Problem, f.Admits, f.Better, f.Fixable = "admits every host", "evil.example", nil, false
	if s.domain != "" {
		f.Problem = fmt.Sprintf("admits every host below %s, where anybody can have one", s.domain)
		f.Admits = "evil." + s.domain
	}
	f.Remedy = "name the hosts that are needed"
	return f
}

var group = regexp.MustCompile(`^([^()|]*)\(([^()]*)\)([^()|]*)$`)

// alternatives writes an extended "^(a|b)\.c$" as one line for each.
func alternatives(text string) (lines []string) {
	if strings.ContainsAny(text, "{}+?") {
		return nil
	}
	m := group.FindStringSubmatch(text)
	if m == nil {
		if strings.ContainsAny(text, "()") {
			return nil
		}
		m = []string{"", "", text, ""}
	}
	for alternative := range strings.SplitSeq(m[2], "|") {
		lines = append(lines, m[1]+alternative+m[3])
	}
	return lines
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

// Fix rewrites a rule file where that is safe: what was meant is clear, and no line permits more than it did. A file that
// was refused may become valid by it. Comments, blank lines and line ends stay.
func (c Check) Fix(path string, content []byte) []byte {
	for range 4 { // what one round has made narrow may be covered by another line in the next
		byLine := map[int]Finding{}
		for _, f := range c.File(path, content) {
			if _, twice := byLine[f.Line]; f.Fixable && !twice {
				byLine[f.Line] = f
			}
		}
		if len(byLine) == 0 {
			break
		}
		// Lines that are covered by one that changes in this round wait for the next.
		narrowed := slices.ContainsFunc(slices.Collect(maps.Values(byLine)), func(f Finding) bool { return f.Better != nil })
		var b bytes.Buffer
		number := 0
		for line := range bytes.Lines(content) {
			number++
			f, found := byLine[number]
			if !found || narrowed && f.Better == nil {
				b.Write(line)
				continue
			}
			b.WriteString(f.rewrite(string(line)))
		}
		content = b.Bytes()
	}
	return content
}

// rewrite puts Better in the place of the entry of a line, end of line included.
func (f Finding) rewrite(line string) string {
	before, after, _ := strings.Cut(line, f.entry)
	body := strings.TrimRight(after, "\r\n")
	end := after[len(body):]
	if f.Better == nil {
		if comment := strings.TrimLeft(body, " \t"); comment != "" {
			return before + comment + end
		}
		if strings.HasPrefix(before, "\ufeff") {
			return "\ufeff"
		}
		return ""
	}
	text := before + f.Better[0] + body
	for _, more := range f.Better[1:] {
		text += lineEnd(end) + more
	}
	return text + end
}

func lineEnd(end string) string {
	if end == "" {
		return "\n"
	}
	return end
}
