package explain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/qubes"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// A remedy is a promise. What the guards say is put together to lines that the list needs. A proxy of its own tries the request
// with these lines, and the remedy is offered only if the request passes. That proxy resolves the name again, so an address that
// the next answer lacks is no remedy. Meanwhile the AppVM's own proxy keeps its list and its fence.

// An opening is what could open a fence that refuses a request. The zero opening is nothing.
type opening struct {
	port   bool // the port, at public addresses
	egress rules.Egress
}

// A remedy is what a rule file would have to say in addition.
type remedy struct {
	entry  rules.Host   // the host, or the host with its port
	port   uint16       // in a line of its own; 0 for none
	egress rules.Egress // the zero Egress for none
}

// remedyFor returns what would let a request pass, judging by the steps. It reports false if nothing in the rule file would.
func (s Subject) remedyFor(steps []control.Step, r tinyproxy.Request, o opening) (m remedy, ok bool) {
	refuses := func(guard string) bool {
		return slices.ContainsFunc(steps, func(s control.Step) bool { return s.Guard == guard && !s.Passes })
	}
	if s.File.Path == "" {
		return m, false
	}
	allows := s.Config.Filter.AllowsByLine() // that `allow` adds what passes
	if refuses(guardFence) {
		if o == (opening{}) && !refuses(guardRules) {
			return m, false
		}
		m.egress = o.egress
	}
	byPort := (refuses(guardPort) || o.port) && m.egress.Port != r.Port
	host, err := entryFor(r.Host)
	switch listed := !refuses(guardRules); {
	case !listed && (!allows || err != nil):
		return m, false
	case !listed, byPort && allows && err == nil:
		m.entry = host
		if byPort {
			m.entry.Port = r.Port
		}
	case byPort:
		m.port = r.Port
	}
	return m, m != remedy{}
}

// tryRemedy returns what lets a request pass, or what came of it when that was tried; "" if nothing in the rule file does.
func (x Explainer) tryRemedy(ctx context.Context, s Subject, steps []control.Step, r tinyproxy.Request, o opening) string {
	m, ok := s.remedyFor(steps, r, o)
	if !ok {
		return ""
	}
	for _, step := range steps {
		if step.Guard == guardTemplate && !step.Passes {
			return "none by the rule file: the template keeps the AppVM out whatever that says"
		}
	}
	remedied, err := s.with(m)
	switch {
	case err != nil && s.Input.Ceiling != nil:
		return "none by the rule file: " + err.Error()
	case err != nil:
		return ""
	}
	step := x.Try(ctx, remedied, r, true).step(r)
	if !step.Passes {
		return fmt.Sprintf("none by the rule file: with %s it fails all the same: %s", m.lines(), step.Says)
	}
	return m.instructions(s) + " (tried: it passes then)"
}

// with returns the policy that the rule file makes with what a remedy adds.
func (s Subject) with(m remedy) (*policy.Policy, error) {
	file, temporary := s.File, slices.Clone(s.ForATime)
	if m.egress.To.IsValid() {
		file.Egress = append(slices.Clone(file.Egress), m.egress)
	}
	if m.port != 0 {
		file.Ports = append(slices.Clone(file.Ports), rules.Port{Number: m.port})
	}
	if m.entry != (rules.Host{}) {
		temporary = append(temporary, m.entry)
	}
	p, err := policy.New(file, temporary, s.Template, s.Input)
	if err == nil && p.Ceiling != nil { // beyond which nothing is allowed for a time
		err = p.MayAllow(m.entry, rules.Host{Port: m.port})
	}
	return p, err
}

// lines describes the lines of a remedy.
func (m remedy) lines() string {
	var all []string
	if m.entry != (rules.Host{}) {
		all = append(all, "a line for "+m.entry.String())
	}
	for _, line := range m.directives() {
		all = append(all, "the line `"+line+"`")
	}
	return strings.Join(all, " and ")
}

// directives returns the lines of a remedy that `allow` does not write.
func (m remedy) directives() (all []string) {
	if m.port != 0 {
		all = append(all, fmt.Sprintf("#: port %d", m.port))
	}
	if m.egress.To.IsValid() {
		all = append(all, "#: egress "+m.egress.String())
	}
	return all
}

// instructions returns what a person does: either a command, or lines to write. A command and a line would not do: `allow` tries
// the host at its usual port at once, and would report a failure that the line is about.
func (m remedy) instructions(s Subject) string {
	addr, err := netip.ParseAddr(m.entry.Name)
	directives := m.directives()
	if len(directives) == 0 && (err != nil || addr.Is4()) {
		entry := m.entry.String()
		if m.entry.Port == 80 { // which `allow` takes for the usual one, but for web sockets
			entry = "ws://" + m.entry.WithoutPort().String()
		}
		return fmt.Sprintf("vifproxyctl allow %s %s", s.Name, entry)
	}
	switch s.File.Origin {
	case rules.InDom0:
		return m.inDom0(s)
	case rules.InFirewall:
		return "change the firewall settings of the AppVM in dom0"
	}
	var lines []string
	if m.entry != (rules.Host{}) {
		for _, line := range s.File.Lacks(policy.SyntaxOf(s.Config.Filter), m.entry) {
			lines = append(lines, "`"+line+"`")
		}
	}
	for _, line := range directives {
		lines = append(lines, "`"+line+"`")
	}
	noun := "the line "
	if len(lines) > 1 {
		noun = "the lines "
	}
	return "write " + noun + strings.Join(lines, " and ") + " into " + s.RulesPath
}

// inDom0 is instructions for a list in dom0.
func (m remedy) inDom0(s Subject) string {
	var words []string
	if m.entry != (rules.Host{}) {
		words = append(words, m.entry.String())
	}
	for _, line := range m.directives() {
		words = append(words, qubes.WordOf(line))
	}
	return "in dom0, add " + strings.Join(words, " ") + " to the feature " + qubes.Key(s.RulesPath)
}
