// Package flaws has what is said of a text that somebody wrote and that cannot be used.
//
// Concurrency: its functions may be called from any goroutine.
package flaws

import (
	"strconv"

	"vifproxy/internal/secret"
	"vifproxy/internal/terminal"
)

// A Flaw is what is wrong with a line or a part of it, and what its author can do. It does not say in which file.
type Flaw struct {
	Col    int    // from 1, in bytes; 0 if the line as a whole is meant
	Text   string // what is wrong; whatever it quotes from the file is an excerpt
	Remedy string

	TwoWords bool // there is white space within a line
}

func (f *Flaw) Error() string { return f.Text + " (" + f.Remedy + ")" }

// Excerpt quotes text from a file for a message: readable, one line, not too long, and without a password.
func Excerpt(text string) string {
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
