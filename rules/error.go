package rules

import (
	"fmt"
	"strconv"
	"strings"

	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
)

// Error says what is wrong with a rule file or a template: where, what, and what to do about it.
type Error struct {
	Path   string
	Line   int    // from 1; 0 when the file as a whole is meant
	Col    int    // from 1, in bytes; 0 when the line as a whole is meant
	Text   string // what is wrong; whatever it quotes from the file is an excerpt
	Remedy string // what the file's owner can do

	twoWords bool // there is white space within a line

	Unsettled bool // nothing is wrong with the file but that it is not complete yet
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

// excerpt quotes text from a file for an error message: readable, one line, not too long, and without a password.
func excerpt(text string) string {
	const most = 80
	text = secret.Text(text)
	end := ""
	if len(text) > most {
		text, end = text[:most], "…"
	}
	if terminal.IsPlain(text) { // a pattern's backslashes are not doubled
		return `"` + text + `"` + end
	}
	return strconv.Quote(text) + end
}
