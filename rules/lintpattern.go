package rules

import (
	"fmt"
	"regexp"
	"strings"
)

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
