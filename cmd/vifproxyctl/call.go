package main

import (
	"fmt"
	"io"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// A call is what every verb gets.
type call struct {
	env
	socket string
	client *control.Client // of the daemon behind socket
	json   bool            // print JSON
	args   []string        // the words behind the verb
}

// warn prints on standard error what is not an error but matters.
func (c *call) warn(format string, args ...any) {
	complain(c.stderr, fmt.Sprintf(format, args...))
}

// complain prints a message, wrapped if a terminal shows it.
func complain(w io.Writer, text string) {
	_, _ = io.WriteString(w, usage.Wrap("vifproxyctl: "+terminal.Quote(text), terminal.Width(w), 4))
}

// print prints a result: v with --json, and text without.
func (c *call) print(v any, text string) error {
	if c.json {
		encoded, err := terminal.JSON(v, "  ")
		if err != nil {
			return err
		}
		text = string(encoded)
	}
	return say(c.stdout, "%s", text)
}

// orEmpty returns rows as JSON is to have them: not null.
func orEmpty[T any](rows []T) []T { return append([]T{}, rows...) }

func say(w io.Writer, format string, args ...any) error {
	_, err := fmt.Fprintf(w, format, args...)
	return err
}
