// Package match says which lines of a list match a name, as tinyproxy and its C library do. A line becomes a finite automaton, made of
// the tree of package rules/expression. What the automaton does not say exactly, such as a reference back to a parenthesis, is left to
// a real tinyproxy: see [Matcher.Exact].
//
// Concurrency: a [Matcher] is immutable, and all functions may be called from any goroutine.
package match

import (
	"strings"

	"vifproxy/rules/expression"
)

// A Matcher knows the lines of one list.
type Matcher struct {
	defaultAllow bool
	lines        []line
	inexact      []Inexact
	steps        []step
	sets         []expression.Charset
	longest      int // the most steps of a line
	index        index
}

// A line is the steps of one line of the list, in Matcher.steps.
type line struct {
	first, end int32
	start      int32 // the step that comes first, at the end of what matches
	anchored   bool  // it matches at the end of a text only
}

// Inexact is a line that only a real tinyproxy can judge.
type Inexact struct {
	Line int    // index into the list
	Why  string // without a period
}

// New returns the matcher of lines as tinyproxy gets them, such as those of [rules.File.Lines], in the syntax in which tinyproxy reads
// them: see [expression.Syntax.Compiled].
func New(lines []string, s expression.Syntax) *Matcher {
	m := &Matcher{defaultAllow: s.DefaultAllow, lines: make([]line, len(lines))}
	c := compiler{Matcher: m, known: map[expression.Charset]int32{}}
	for i, text := range lines {
		tree, flaw := expression.Parse(text, s.Language, s.CaseSensitive)
		if flaw != nil {
			m.inexact = append(m.inexact, Inexact{i, flaw.Text})
		} else if !c.line(&m.lines[i], tree) {
			m.inexact = append(m.inexact, Inexact{i, "it repeats too much, or the list is too long"})
		} else {
			m.index.add(i, m.end(m.lines[i]))
		}
	}
	return m
}

// Exact reports whether the matcher answers for all lines as tinyproxy does, for every text.
func (m *Matcher) Exact() bool { return len(m.inexact) == 0 }

// Inexact returns the lines that are not exact, in their order. The other methods take them for lines that match nothing.
func (m *Matcher) Inexact() []Inexact { return m.inexact }

// Match returns the first line that matches a text, as an index into the list. text is what tinyproxy compares: the host of a request
// as the client wrote it, without port and without the brackets of an IPv6 address, or the whole URL with FilterURLs. A text with a
// newline or a NUL matches nothing, because a request line cannot contain either.
func (m *Matcher) Match(text string) (line int, ok bool) {
	if found := m.Lines(text, 1); len(found) > 0 {
		return found[0], true
	}
	return 0, false
}

// Lines returns the first lines that match a text, at most most, as indexes into the list. See Match.
func (m *Matcher) Lines(text string, most int) (found []int) {
	if !possible(text) {
		return nil
	}
	r := newRun(m, text)
	for _, i := range m.index.of(text) {
		if len(found) >= most {
			break
		}
		if r.matches(m.lines[i]) {
			found = append(found, int(i))
		}
	}
	return found
}

// Permits reports whether the list lets a text pass, and by which line: the first that permits it or, under default allow, that
// forbids it; -1 if none matches. It permits no text with a newline or a NUL.
func (m *Matcher) Permits(text string) (permits bool, line int) {
	line, matched := m.Match(text)
	if !matched {
		line = -1
	}
	return matched != m.defaultAllow && possible(text), line
}

func possible(text string) bool { return !strings.ContainsAny(text, "\n\x00") }
