package main

import (
	"context"
	"fmt"
	"io"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// guardIndent is where what a guard says begins, in columns.
const guardIndent = 18

// explain is the verb explain. It fails when the request would not pass.
func explain(c *call) error {
	e, err := control.NewClient(c.socket).Explain(context.Background(), c.names[0], c.names[1])
	if err != nil {
		return err
	}
	if c.json {
		var text []byte
		if text, err = document(e); err == nil {
			_, err = c.stdout.Write(text)
		}
	} else {
		err = printExplanation(c.stdout, e)
	}
	switch {
	case err != nil || e.Verdict == control.Passes:
		return err
	case e.Verdict == control.Fails:
		return errFails
	}
	return errTrouble
}

// errFails ends a run that has explained why a request fails although nothing refuses it.
var errFails = fmt.Errorf("the request fails: %w", errTrouble)

// printExplanation shows a verdict and what each guard says, wrapped if a terminal shows it.
func printExplanation(w io.Writer, e control.Explanation) error {
	text := fmt.Sprintf("%s by %s: %s\n", terminal.Quote(e.Request), terminal.Quote(e.VM), terminal.Quote(e.Verdict))
	row := func(label, says string) {
		text += usage.Wrap(fmt.Sprintf("    %-13s %s", label, says), terminal.Width(w), guardIndent)
	}
	for _, step := range e.Steps {
		says := terminal.Quote(step.Says)
		for i, line := range step.Lines {
			if i > 0 {
				row(terminal.Quote(step.Guard), says)
				step.Guard, says = "", "and by"
			}
			if line.Line == 0 {
				says += " what was allowed for a time: " + terminal.Quote(line.Text)
			} else {
				says += fmt.Sprintf(" %s:%d: %s", terminal.Quote(line.Path), line.Line, terminal.Quote(line.Text))
			}
		}
		row(terminal.Quote(step.Guard), says)
	}
	if e.Remedy != "" {
		row("remedy", terminal.Quote(e.Remedy))
	}
	if e.Note != "" {
		row("note", terminal.Quote(e.Note))
	}
	return say(w, "%s", text)
}
