package supervisor

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// A remedy is a promise. What lists could say so that a request passes is put together from what its guards say, tried in a
// proxy of its own, and offered only if the request passes then. That proxy resolves the name once more, so an address that
// the next answer does not have is no remedy. The AppVM's own proxy keeps its list, and its fence, meanwhile.

// opening is what a fence that refuses a request could be opened by. The zero opening is nothing.
type opening struct {
	port   bool // the port, at public addresses
	egress rules.Egress
}

// remedy is what a rule file would have to say more.
type remedy struct {
	entry  rules.Host   // the host, or the host with its port
	port   uint16       // in a line of its own; 0 for none
	egress rules.Egress // the zero Egress for none
}

// remedyFor returns what would let a request pass by what its guards say; not ok if nothing in the rule file would.
func (f served) remedyFor(steps []control.Step, q tinyproxy.Request, o opening) (r remedy, ok bool) {
	refuses := func(guard string) bool {
		return slices.ContainsFunc(steps, func(s control.Step) bool { return s.Guard == guard && !s.Passes })
	}
	if f.file.Path == "" {
		return r, false
	}
	allows := f.Config.Filter.AllowsByLine() // that `allow` adds what passes
	if refuses(guardFence) {
		if o == (opening{}) && !refuses(guardRules) {
			return r, false
		}
		r.egress = o.egress
	}
	byPort := (refuses(guardPort) || o.port) && r.egress.Port != q.Port
	host, err := entryFor(q.Host)
	switch listed := !refuses(guardRules); {
	case !listed && (!allows || err != nil):
		return r, false
	case !listed, byPort && allows && err == nil:
		r.entry = host
		if byPort {
			r.entry.Port = q.Port
		}
	case byPort:
		r.port = q.Port
	}
	return r, r != remedy{}
}

// entryFor reads a host as tinyproxy gets it: an IPv6 address is without brackets there.
func entryFor(host string) (rules.Host, error) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + host + "]"
	}
	return rules.ParseEntry(host)
}

// tryRemedy says what lets a request pass, or what came of it when that was tried; "" if nothing in the rule file does.
func (s *Supervisor) tryRemedy(ctx context.Context, f served, steps []control.Step, q tinyproxy.Request, o opening) string {
	r, ok := f.remedyFor(steps, q, o)
	if !ok {
		return ""
	}
	for _, step := range steps {
		if step.Guard == guardTemplate && !step.Passes {
			return "none by the rule file: the template keeps the AppVM out whatever that says"
		}
	}
	policy, err := f.with(r)
	if err != nil {
		return ""
	}
	step := tryStep(s.try(ctx, policy, q, true), q)
	if !step.Passes {
		return fmt.Sprintf("none by the rule file: with %s it fails all the same: %s", r.lines(), step.Says)
	}
	return r.orders(f) + " (tried: it passes then)"
}

// with returns the policy that the rule file makes with what a remedy adds.
func (f served) with(r remedy) (*Policy, error) {
	file, temporary := f.file, slices.Clone(f.temporary)
	if r.egress.To.IsValid() {
		file.Egress = append(slices.Clone(file.Egress), r.egress)
	}
	if r.port != 0 {
		file.Ports = append(slices.Clone(file.Ports), rules.Port{Number: r.port})
	}
	if r.entry != (rules.Host{}) {
		temporary = append(temporary, r.entry)
	}
	return policy.New(file, temporary, f.Template, f.input)
}

// lines are what it adds, for people.
func (r remedy) lines() string {
	var all []string
	if r.entry != (rules.Host{}) {
		all = append(all, "a line for "+r.entry.String())
	}
	for _, line := range r.directives() {
		all = append(all, "the line `"+line+"`")
	}
	return strings.Join(all, " and ")
}

// directives are lines that `allow` does not write.
func (r remedy) directives() (all []string) {
	if r.port != 0 {
		all = append(all, fmt.Sprintf("#: port %d", r.port))
	}
	if r.egress.To.IsValid() {
		all = append(all, "#: egress "+r.egress.String())
	}
	return all
}

// orders are what a person does: one thing, a command or lines to be written. `allow` would try the host at its usual port, and
// call a failure what a line beside it is about.
func (r remedy) orders(f served) string {
	addr, err := netip.ParseAddr(r.entry.Name)
	directives := r.directives()
	if len(directives) == 0 && (err != nil || addr.Is4()) {
		entry := r.entry.String()
		if r.entry.Port == 80 { // which `allow` takes for the usual one, but for web sockets
			entry = "ws://" + r.entry.WithoutPort().String()
		}
		return fmt.Sprintf("vifproxyctl allow %s %s", f.Name, entry)
	}
	var lines []string
	if r.entry != (rules.Host{}) {
		for _, line := range f.file.Lacks(policy.SyntaxOf(f.Config.Filter), r.entry) {
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
	return "write " + noun + strings.Join(lines, " and ") + " into " + f.RulesPath
}
