package main

import (
	"context"
	"fmt"
	"io"

	"vifproxy/control"
)

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

func printExplanation(w io.Writer, e control.Explanation) error {
	text := fmt.Sprintf("%s by %s: %s\n", safe(e.Request), safe(e.VM), safe(e.Verdict))
	for _, step := range e.Steps {
		text += fmt.Sprintf("    %-13s %s", safe(step.Guard), safe(step.Says))
		for i, line := range step.Lines {
			if i > 0 {
				text += fmt.Sprintf("\n    %-13s and by", "")
			}
			if line.Line == 0 {
				text += " what was allowed for a time: " + safe(line.Text)
			} else {
				text += fmt.Sprintf(" %s:%d: %s", safe(line.Path), line.Line, safe(line.Text))
			}
		}
		text += "\n"
	}
	if e.Remedy != "" {
		text += "    remedy        " + safe(e.Remedy) + "\n"
	}
	if e.Note != "" {
		text += "    note          " + safe(e.Note) + "\n"
	}
	return say(w, "%s", text)
}
