package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/tinyproxy"
)

// connectPortStep says whether a tunnel may go to the port: the template names it, or the list opens it.
func (s Subject) connectPortStep(ctx context.Context, r tinyproxy.Request) (control.Step, error) {
	step := control.Step{Guard: guardPort, Passes: true, Lines: []control.Line{}}
	if !r.Tunnel {
		step.Says = "no tunnel: the request is plain HTTP"
		return step, nil
	}
	port := r.Port
	config, text, err := s.RenderAnywhere()
	if err != nil {
		return step, err
	}
	judge := s.Judge()
	judge.ConnectPorts = tinyproxy.ConnectPorts(text + config.ConnectTo(s.ConnectPorts(s.ForAll)))
	step.Passes, err = judge.PortAllowed(ctx, r)
	opened := s.linesForPort(port)
	for _, e := range s.Egress {
		if e.Port == port {
			opened = append(opened, control.Line{Path: cmp.Or(e.Part, s.RulesPath), Line: e.Line, Text: e.Text})
		}
	}
	switch {
	case !step.Passes:
		step.Says = fmt.Sprintf("no line of the list opens port %d for tunnels (HTTPS), and %s has no ConnectPort %[1]d", port, s.Template.Name())
	case config.AnyPort || slices.Contains(config.ConnectPorts, port):
		step.Says = fmt.Sprintf("%s opens port %d for tunnels (HTTPS)", s.Template.Name(), port)
	case len(opened) > 0:
		step.Says, step.Lines = "the port is opened by", opened[:min(len(opened), linesMax)]
	default:
		step.Says = "the port is opened by --egress-allow"
	}
	return step, err
}

// linesForPort returns the first lines that open a port at public addresses.
func (s Subject) linesForPort(port uint16) (lines []control.Line) {
	for _, l := range s.Ports {
		if l.Number == port && len(lines) < linesMax {
			lines = append(lines, control.Line{Path: cmp.Or(l.Part, s.RulesPath), Line: l.Line, Text: l.Text})
		}
	}
	return lines
}

// portLine returns the line that would open the port of a request.
func (s Subject) portLine(r tinyproxy.Request) string {
	if host, err := entryFor(r.Host); err == nil && s.Names && s.Config.Filter.DefaultDeny {
		host.Port = r.Port
		return host.String()
	}
	return fmt.Sprintf("#: port %d", r.Port)
}

// offer adds to the step of ConnectPort which line opens the port. A line that opens the fence at an address that is not public
// opens the port too.
func offer(steps []control.Step, s Subject, r tinyproxy.Request) {
	of := func(guard string) *control.Step {
		return &steps[slices.IndexFunc(steps, func(s control.Step) bool { return s.Guard == guard })]
	}
	port, fence := of(guardPort), of(guardFence)
	switch {
	case port.Passes:
	case fence.Passes:
		port.Says += fmt.Sprintf(" (the line `%s` in the rule file opens it)", s.portLine(r))
	case strings.Contains(fence.Says, "` in the rule file opens it"):
		port.Says += " (the line that opens the fence, below, opens it too)"
	}
}

// rulesStep says which lines of the rule file match.
func (s Subject) rulesStep(ctx context.Context, r tinyproxy.Request) (control.Step, error) {
	step := control.Step{Guard: guardRules, Lines: []control.Line{}}
	matching, err := s.Matching(ctx, r, linesMax)
	if err != nil {
		return step, err
	}
	for _, i := range matching {
		l := s.Rules[i]
		line := control.Line{Path: cmp.Or(l.Part, s.RulesPath), Line: l.Number, Text: l.Text}
		if host, temporary := s.Policy.Temporary[line.Text]; temporary {
			line.Text = host.String()
		} else if line.Line > 0 {
			line.Text = l.Source
		}
		step.Lines = append(step.Lines, line)
	}
	switch matched := len(step.Lines) > 0; {
	case matched && s.Config.Filter.DefaultDeny:
		step.Passes, step.Says = true, "permitted by"
	case matched:
		step.Says = "forbidden by"
	case s.Config.Filter.DefaultDeny:
		step.Says = "no line permits it"
	default:
		step.Passes, step.Says = true, "no line forbids it"
	}
	return step, nil
}
