package rules

import (
	"fmt"
	"strings"

	"vifproxy/internal/terminal"
	"vifproxy/rules/flaws"
)

// An Error says what is wrong with a rule file or a template: where, what, and what to do about it.
type Error struct {
	Path string
	Line int // from 1; 0 if the file as a whole is meant
	flaws.Flaw

	Unsettled bool // nothing is wrong with the file but that it is not complete yet

	// What its author can only have meant, if that is clear: these lines in the place of Part. Certain says that the file can
	// be read with them as far as the line is concerned.
	Part    string
	Meant   []string
	Certain bool
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(terminal.Quote(e.Path))
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	fmt.Fprintf(&b, ": %s", e.Text)
	if e.Remedy != "" {
		fmt.Fprintf(&b, " (%s)", e.Remedy)
	}
	return b.String()
}

// at returns the Error that a flaw makes of a line.
func at(path string, line int, flaw *flaws.Flaw) *Error {
	return &Error{Path: path, Line: line, Flaw: *flaw}
}

// wrong returns an Error about a line, or about a file as a whole if line is 0.
func wrong(path string, line int, text, remedy string) *Error {
	return at(path, line, &flaws.Flaw{Text: text, Remedy: remedy})
}
