package main

import (
	"io"

	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// printRemarks prints remarks, wrapped if a terminal shows them. Scripts have the same in JSON.
func printRemarks(c *call, w io.Writer, lines []string) error {
	if c.json && w == c.stdout || len(lines) == 0 {
		return nil
	}
	text := ""
	if w == c.stdout {
		text = "\n"
	}
	for _, line := range lines {
		text += usage.Wrap(line, terminal.Width(w), 4)
	}
	_, err := io.WriteString(w, text)
	return err
}
