package main

import (
	"fmt"
	"net/netip"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// guardIndent is where what a guard says begins, in columns.
const guardIndent = 18

func explainVerb() verb {
	return verb{
		name: "explain", args: "NAME URL|HOST[:PORT]", least: 2, most: 2, json: true, options: plain(runExplain),
		summary: "Say whether a request of a VM passes, and why: it is tried.",
		help: `A second tinyproxy, with the same user, sandbox, fence and rules as the VM's proxy, resolves the name
and connects. Then it ends, and nothing is sent to HOST. A HOST alone stands for https://HOST/. The
verdict comes within 3 s, with what each guard on the way says:
    proxy         the VM's proxy runs, and has room for one more connection
    template      Allow, Deny and BasicAuth of the template "config"
    connect-port  ports to which a tunnel may go
    rules         the line of the file that decides
    fence         the addresses that HOST has now
    try           the result of the connection
    remedy        the line in the rule file that lets the request pass; it was tried, the same way

The exit status is
    0  the request passes
    1  it is refused: by the list, a port, the template "config" or the fence
    5  it fails: its name does not resolve, nobody answers, the proxy is stopped or full
`,
	}
}

// runExplain fails if the request would not pass.
func runExplain(c *call) error {
	if network, err := netip.ParsePrefix(c.args[1]); err == nil {
		return usagef("%v is a network: explain one address of it", network)
	}
	e, err := c.client.Explain(c.ctx, c.args[0], c.args[1])
	if err == nil {
		err = c.print(e, explanationText(e, terminal.Width(c.stdout)))
	}
	switch {
	case err != nil || e.Verdict == control.Passes:
		return err
	case e.Verdict == control.Fails:
		return errFails
	}
	return errTrouble
}

// explanationText returns a verdict and what each guard says, for a terminal of this width; 0 is none.
func explanationText(e control.Explanation, width int) string {
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
