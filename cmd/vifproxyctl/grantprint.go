package main

import (
	"context"
	"fmt"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/check"
	"vifproxy/internal/display"
	"vifproxy/internal/terminal"
)

// conclude asks the daemon whether the hosts pass now, as they should or should not, and says so.
func (g *grant) conclude(ctx context.Context, what string, should bool) error {
	trouble := false
	for _, address := range g.asked {
		e, err := g.c.client.Explain(ctx, g.VM, address)
		if err != nil {
			return err
		}
		if !should {
			e.Remedy = "" // that is what was taken back
		}
		g.Explanations = append(g.Explanations, e)
		trouble = trouble || (e.Verdict != control.IsRefused) != should // whether it answers is not the list's matter
		if port := refusedPort(e); should && port != "" {
			g.c.warn("a rule file says which hosts pass; a tunnel to port %s needs the line ConnectPort %[1]s in the template %s,"+
				" which opens this port for all VMs", port, g.place.template)
		}
	}
	if err := g.print(what); err != nil {
		return err
	}
	if trouble {
		return errTrouble
	}
	return nil
}

// refusedPort returns the port of a request that its port alone stops; "" for any other.
func refusedPort(e control.Explanation) string {
	for _, step := range e.Steps {
		if step.Guard == "proxy" || step.Guard == "try" { // no guard decides by a list there
			continue
		}
		if step.Passes != (step.Guard != "connect-port") {
			return ""
		}
	}
	return e.Request[strings.LastIndex(e.Request, ":")+1:]
}

func (g *grant) print(what string) error { return g.c.print(g, g.text(what)) }

// text returns what was done, for people.
func (g *grant) text(what string) string {
	lines := g.Lines
	if g.Seconds > 0 {
		lines = g.Hosts
	}
	text := what + ":\n"
	for _, line := range lines {
		text += "    " + check.WithEffect(line, check.Effect(g.Changes, line, g.added, g.hosts...)) + "\n"
	}
	if len(lines) == 0 {
		text = "nothing is " + what + "\n"
	}
	if len(g.TakenBack) > 0 {
		text += "allowed for a time, and no more:\n"
		for _, host := range g.TakenBack {
			text += "    " + terminal.Quote(host) + "\n"
		}
	}
	for _, port := range g.Ports {
		text += fmt.Sprintf("port %d is for all hosts that %s may reach: tinyproxy ties none to one host\n", port, terminal.Quote(g.VM))
	}
	text += g.inForce()
	for _, e := range g.Explanations {
		text += display.Explanation(e, terminal.Width(g.c.stdout))
	}
	return text
}

// inForce returns since when a change is in force, or why it serves nobody.
func (g *grant) inForce() string {
	switch {
	case g.notice != "":
		return terminal.Quote(g.notice) + "\n"
	case g.InForceMS > 0:
		return fmt.Sprintf("in force after %.0f ms\n", g.InForceMS)
	}
	return ""
}
