package propose

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// namedMax is how many sites an error names.
const namedMax = 20

// All is the word that accepts all sites that a page may need.
const All = "all"

// Accept returns the lines that words accept. A word is a site, for all its hosts; a line, such as *.bank.example; or [All]. All accepts
// neither wildcards, nor what browsers ask for by themselves, nor a port that was closed. No word accepts a line beyond a ceiling. A word that accepts nothing is an error.
func (p Proposal) Accept(words []string) (accepted []Line, err error) {
	for _, word := range words {
		lines := p.lines(word)
		if len(lines) == 0 {
			return nil, fmt.Errorf("%s is not proposed; %s", terminal.Quote(word), p.choice())
		}
		beyond := lines[0].Beyond
		lines = slices.DeleteFunc(lines, func(l Line) bool { return l.Beyond != "" })
		if len(lines) == 0 {
			return nil, errors.New(beyond)
		}
		for _, l := range lines {
			if !slices.ContainsFunc(accepted, func(other Line) bool { return other.Text == l.Text }) {
				accepted = append(accepted, l)
			}
		}
	}
	return accepted, nil
}

// lines returns the lines that a word accepts.
func (p Proposal) lines(word string) (lines []Line) {
	for _, s := range p.Sites {
		for _, l := range s.Lines {
			if word == All && !l.Closed || word == s.Name {
				lines = append(lines, l)
			}
		}
	}
	if word == All || len(lines) > 0 {
		return lines
	}
	for _, s := range p.Background {
		if word == s.Name {
			return slices.Clone(s.Lines)
		}
	}
	for _, s := range slices.Concat(p.Sites, p.Background) {
		for _, l := range s.Lines {
			if l.Text == word {
				return []Line{l}
			}
		}
		if s.Wildcard != nil && s.Wildcard.Text == word {
			return []Line{*s.Wildcard}
		}
	}
	return nil
}

// choice says what can be accepted.
func (p Proposal) choice() string {
	var names []string
	for _, s := range slices.Concat(p.Sites, p.Background) {
		if !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return "nothing is"
	}
	text := "these sites are: " + strings.Join(names[:min(len(names), namedMax)], ", ")
	if more := len(names) - namedMax; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// Also says what a line admits in addition to its hosts, or why it is not accepted, for a person; "" if that is nothing.
func (l Line) Also() string {
	switch {
	case l.Beyond != "":
		return l.Beyond
	case l.Host.Port != 0:
		return fmt.Sprintf("opens port %d for the whole list", l.Host.Port)
	case l.Unknown != "":
		return "nobody can say what else it permits: " + l.Unknown
	case l.Admits != "":
		return "also permits " + l.Admits
	}
	return ""
}

// Text returns a proposal as a table for people. Every line that can be accepted has a row.
func (p Proposal) Text() string {
	rows := [][]string{{"SITE", "LINE", "COUNT", "NOTE"}}
	add := func(sites []Site) {
		for _, s := range sites {
			name := s.Name
			for _, l := range s.Lines {
				note := l.Also()
				if l.For != "" && l.Beyond == "" {
					note = "by itself: " + terminal.Quote(l.For)
				}
				rows = append(rows, []string{name, l.Text, fmt.Sprint(l.Count), note})
				name = ""
			}
			if w := s.Wildcard; w != nil {
				rows = append(rows, []string{"", w.Text, fmt.Sprint(w.Count), strings.TrimSuffix("instead of the hosts; "+w.Also(), "; ")})
			}
		}
	}
	add(p.Sites)
	add(p.Background)
	text := ""
	if len(rows) > 1 {
		for line := range strings.Lines(usage.Aligned(rows)) {
			text += strings.TrimRight(line, " \n") + "\n"
		}
	}
	for _, l := range p.LeftOut {
		text += fmt.Sprintf("not proposed: %s: %s\n", terminal.Quote(l.Host), terminal.Quote(l.Why))
	}
	return text
}
