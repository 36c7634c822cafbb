package lint

import (
	"fmt"
	"regexp"
	"strings"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
	"vifproxy/rules/hostname"
	"vifproxy/rules/shape"
)

// pattern returns findings about one pattern whose characters are those of host names.
func (l Linter) pattern(f Finding, s shape.Shape) (all []Finding) {
	if len(s.Plain) > 0 {
		found, t := f, s.Plain[0]
		found.Problem = fmt.Sprintf("%q is a character like any other in a basic regular expression: no host has it", t.C)
		found.Remedy = `write a line for each, or put "FilterExtended Yes" into the template "config"`
		found.Col, found.Width, found.Better = t.Pos+1, 1, alternatives(s.Text)
		return []Finding{found}
	}
	if l.URLs || l.DefaultAllow {
		return nil
	}
	if branches := shape.Branches(l.Language, s.Text); len(branches) > 1 {
		return l.alternation(f, branches)
	}
	if len(s.Tokens) == 0 && !(s.Start && s.End) || len(s.Tokens) == 1 && s.Tokens[0].Kind == shape.AnyOne && !s.Start {
		return []Finding{tooWideFinding(f, s)}
	}
	if s.Domain != "" && hostname.TooWide(s.Domain) && s.End && !s.Start && (s.Below || strings.Contains(s.Domain, ".")) {
		return []Finding{tooWideFinding(f, s)}
	}
	if !l.named {
		f.Better = s.Meant(l.Language)
	}
	f.Fixable, f.Admits = f.Better != nil, s.Example()
	if s.Exact() && f.Better != nil {
		return nil
	}
	// Anchors inside of groups are anchors too.
	start := s.Start || s.Below || s.Odd && strings.Contains(s.Text, "^") || len(s.Tokens) > 0 && s.Tokens[0].C == '.'
	end := s.End || s.Odd && strings.Contains(s.Text, "$")
	switch {
	case !start && !end && l.unsaid && looksLikeName(s.Text):
		f.Problem = "matches anywhere in a name: it is read as a pattern, as the file does not begin with " + quotedFormat
		f.Remedy = "if these are names, begin the file with " + quotedFormat + "; else write " + nameOf(l.Language, s.Text)
		return []Finding{f}
	case !start && !end:
		f.Problem = "matches anywhere in a name: it is not anchored"
	case !start:
		f.Problem = "matches the end of other names too: the beginning is not anchored"
	case !end:
		f.Problem = "matches the beginning of other names too: there is no $ at the end"
		if l.Language == expression.Fnmatch {
			f.Problem = "matches the beginning of other names too: it ends with *"
		}
		f.Col = f.Width
		f.Width = 1
	}
	if f.Problem != "" {
		if f.Better == nil {
			f.Remedy = "write the whole name, as in " + l.Language.LineFor("bank.example", false)
		}
		all = append(all, f)
	}
	if n := len(s.Dots); n > 0 && !s.Odd {
		t := s.Dots[0]
		found := f
		found.Problem = "this character stands for any one: a dot is written \\."
		if l.Language == expression.Fnmatch {
			found.Problem = "this character stands for any one"
		}
		found.Col, found.Width = t.Pos+1, t.Len
		all = append(all, found)
	}
	return all
}

// alternation returns the finding about a top-level "a|b", in which each side has anchors of its own.
func (l Linter) alternation(f Finding, branches []string) []Finding {
	clear := true
	var first *Finding
	for _, text := range branches {
		s := shape.Of(l.Language, text)
		if found := l.pattern(f, s); len(found) > 0 && first == nil {
			first = &found[0]
			first.Problem = flaws.Excerpt(text) + " " + first.Problem
			first.Col, first.Width = f.Col, f.Width
		}
		meant := s.Meant(l.Language)
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

func tooWideFinding(f Finding, s shape.Shape) Finding {
	f.Problem, f.Admits, f.Better, f.Fixable = "admits every host", "evil.example", nil, false
	if s.Domain != "" {
		f.Problem = fmt.Sprintf("admits every host below %s, where anybody can have one", s.Domain)
		f.Admits = "evil." + s.Domain
	}
	f.Remedy = "name the hosts that are needed"
	return f
}

var groupPattern = regexp.MustCompile(`^([^()|]*)\(([^()]*)\)([^()|]*)$`)

// alternatives returns one line for each alternative of an extended "^(a|b)\.c$".
func alternatives(text string) (lines []string) {
	if strings.ContainsAny(text, "{}+?") {
		return nil
	}
	m := groupPattern.FindStringSubmatch(text)
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

// looksLikeName reports whether a person takes a line for a host name, for names below one, or for a URL, and not for a pattern.
func looksLikeName(text string) bool {
	host, err := rules.ParseHost(text)
	return err == nil && !shape.LooksLikePattern(text) && strings.Contains(host.Name, ".")
}

// nameOf returns the pattern for a text that looks like a name.
func nameOf(l expression.Language, text string) string {
	host, err := rules.ParseHost(text)
	if err != nil {
		return ""
	}
	return l.LineFor(host.Name, host.Below)
}
