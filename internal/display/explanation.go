package display

import (
	"fmt"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// guardIndent is where what a guard says begins, in columns.
const guardIndent = 18

// Explanation returns a verdict and what each guard says, for a terminal of this width; 0 is none.
func Explanation(e control.Explanation, width int) string {
	text := fmt.Sprintf("%s by %s: %s\n", terminal.Quote(e.Request), terminal.Quote(e.VM), terminal.Quote(e.Verdict))
	row := func(label, says string) {
		text += usage.Wrap(fmt.Sprintf("    %-13s %s", label, says), width, guardIndent)
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
	return text
}
