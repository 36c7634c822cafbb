package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
)

// A Line is a line that tinyproxy is given to read, or an entry of a file.
type Line struct {
	Text string // one pattern, without blanks or comments; at most 511 bytes
	Line int    // the line of the rule file that it comes from

	// Source is the line as it is in the rule file, comment included, without the blanks around it. It is empty if the line comes
	// from no file.
	Source string

	Part string // the path of the included list that has the line; "" if the rule file itself has it

	Port uint16 // in a list of names, what is opened with the host; 0 if none
}

// Entry returns what the line names, with its port, as it is written in a file.
func (l Line) Entry() string {
	if l.Port == 0 {
		return l.Text
	}
	return fmt.Sprintf("%s:%d", l.Text, l.Port)
}

// A Syntax is how the template makes tinyproxy read filter lines.
type Syntax = expression.Syntax

// Lines returns what tinyproxy has to read for the file, in the order of the file. The lines of a white list become extended
// expressions that match host names only, whatever the language of the template is. A line that matches no host name is left out.
// Patterns of other lists stay as they are, and host names are compiled for the language of the template. Errors are of type
// *Error.
func (f File) Lines(s Syntax) ([]Line, error) {
	if !f.domains && !s.Narrows() {
		return slices.Clone(f.entries), nil
	}
	if !f.domains {
		lines := make([]Line, 0, len(f.entries))
		for _, entry := range f.entries {
			n, flaw := expression.Compile(entry.Text, s.Language, s.CaseSensitive)
			if flaw != nil {
				return nil, f.at(entry.Part, max(entry.Line, 0), flaw)
			}
			if n.Text != "" {
				lines = append(lines, Line{Text: n.Text, Line: entry.Line, Source: entry.Source, Part: entry.Part})
			}
		}
		return lines, nil
	}
	if s.URLs {
		return nil, wrong(f.Path, f.formatLine, "names cannot be compared with whole URLs, which FilterURLs in the template `config` asks for",
			"remove FilterURLs from the template `config`, or write patterns instead of names")
	}
	var lines []Line
	for _, entry := range f.entries {
		if entry.Port != 0 && s.DefaultAllow {
			return nil, f.at(entry.Part, entry.Line, &flaws.Flaw{Text: flaws.Excerpt(entry.Entry()) + " has a port, and a black list forbids a host at all ports",
				Remedy: "write the host alone"})
		}
		for _, text := range compile(s.Compiled(), entry.Text) {
			if len(text) > expression.LineMax {
				return nil, f.at(entry.Part, entry.Line, &flaws.Flaw{Text: flaws.Excerpt(entry.Text) + " is too long to be compared without regard to case",
					Remedy: "remove FilterCaseSensitive or FilterType fnmatch from the template `config`"})
			}
			lines = append(lines, Line{Text: text, Line: entry.Line, Source: entry.Source, Part: entry.Part})
		}
	}
	return lines, nil
}

// compile returns lines that match this host, or the hosts below it, and no other. tinyproxy compares them with whatever the AppVM
// sends. So upper case, the dot that may end a name, and what only looks like a name must not fool them:
// "203.0.113.9<TAB>.example.com" is an address to the resolver of glibc before 2.29 (CVE-2016-10739).
func compile(s Syntax, name string) []string {
	if _, err := netip.ParseAddr(name); err == nil { // which has one way of writing it
		if s.Language == expression.Fnmatch {
			return []string{name}
		}
		return []string{"^" + strings.ReplaceAll(name, ".", `\.`) + "$"}
	}
	host, wildcard := strings.CutPrefix(name, "*.")
	if s.CaseSensitive || s.Language == expression.Fnmatch {
		host = anyCase(host)
	}
	if s.Language == expression.Fnmatch {
		// fnmatch has no repetition. So '*' cannot be limited to the characters of names, and the dot at the end needs a line of
		// its own.
		if wildcard {
			host = "?*." + host
		}
		return []string{host, host + "."}
	}
	begin, end := "^", `\.\{0,1\}$`
	if s.Language == expression.Extended {
		end = `\.?$`
	}
	switch {
	case wildcard && s.Language == expression.Extended:
		begin = `^([a-zA-Z0-9_-]+\.)+` // no empty label
	case wildcard:
		begin = `^[-_0-9A-Za-z][-_.0-9A-Za-z]*\.`
	}
	return []string{begin + strings.ReplaceAll(host, ".", `\.`) + end}
}

// anyCase makes every letter match in both cases: "a1" becomes "[aA]1".
func anyCase(host string) string {
	var b strings.Builder
	for _, c := range []byte(host) {
		if 'a' <= c && c <= 'z' {
			b.Write([]byte{'[', c, c - 'a' + 'A', ']'})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
