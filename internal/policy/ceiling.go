package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"vifproxy/rules"
	"vifproxy/rules/flaws"
	"vifproxy/rules/match"
	"vifproxy/tinyproxy"
)

// A bound is what the lists of a template may admit at most, by a ceiling.
type bound struct {
	*rules.Ceiling
	syntax  rules.Syntax
	known   map[string]bool       // its lines, as tinyproxy would get them
	matcher func() *match.Matcher // of these, but see finally
	err     error                 // why it cannot be used
}

// boundBy returns what a ceiling makes of a template with this filter. The error is about the ceiling, or about both.
func boundBy(c *rules.Ceiling, template rules.Template, f tinyproxy.Filter) (*bound, error) {
	s := SyntaxOf(f)
	if !s.Narrows() {
		return nil, &rules.Error{Path: c.Path, Flaw: flaws.Flaw{
			Text:   "is a ceiling, and with FilterDefaultDeny No or FilterURLs in " + template.Name() + " nobody can say which hosts a list admits",
			Remedy: "write FilterDefaultDeny Yes and no FilterURLs there, or remove the option --ceiling"}}
	}
	b := c.Compiled(s, func() any { return compile(c, s) }).(*bound)
	return b, b.err
}

func compile(c *rules.Ceiling, s rules.Syntax) *bound {
	lines, err := c.Lines(s)
	b := &bound{Ceiling: c, syntax: s.Compiled(), known: make(map[string]bool, len(lines)), err: err}
	texts := make([]string, len(lines))
	for i, l := range lines {
		b.known[l.Text], texts[i] = true, finally(l.Text)
	}
	b.matcher = sync.OnceValue(func() *match.Matcher { return match.New(texts, b.syntax) })
	return b
}

// finally returns a line of a white list, as [rules.File.Lines] has it, that matches with a period at the end as well: that is the same
// host. Every '$' in such a line is an assertion, because the line matches no other characters than those of hosts.
func finally(line string) string { return strings.ReplaceAll(line, "$", `\.?$`) }

// An excess is what a line admits beyond a ceiling.
type excess struct {
	host string // a shortest one; "" if there is none
	why  error  // nobody can say that
}

// beyond returns what each of some lines, as tinyproxy gets them, admits beyond the bound.
func (b *bound) beyond(lines []tinyproxy.FilterLine) []excess {
	all := make([]excess, len(lines))
	var texts []string
	var at []int
	for i, l := range lines {
		if !b.known[l.Text] {
			texts, at = append(texts, l.Text), append(at, i)
		}
	}
	if texts == nil {
		return all
	}
	difference := match.New(texts, b.syntax).Without(b.matcher(), match.Hosts)
	for i := range texts {
		e := &all[at[i]]
		e.host, _, e.why = difference.Beyond(i)
	}
	return all
}

func (b *bound) opens(port rules.Port) bool {
	return slices.ContainsFunc(b.Ports, func(p rules.Port) bool { return p.Number == port.Number })
}

func (b *bound) covers(e rules.Egress) bool {
	return slices.ContainsFunc(b.Egress, func(wider rules.Egress) bool { return wider.Covers(e) })
}

// limit returns a policy without what is in no file and beyond the bound. An error is about what is in its file.
func (b *bound) limit(p *Policy) (*Policy, error) {
	beyond := func(part string, line int, what, remedy string) error {
		return &rules.Error{Path: cmp.Or(part, p.RulesPath), Line: line, Flaw: flaws.Flaw{Text: what, Remedy: remedy}}
	}
	raise := func(line string) string { return fmt.Sprintf(`remove it, or add "%s" to the ceiling`, line) }
	for _, port := range p.Ports {
		if port.Line > 0 && !b.opens(port) {
			return nil, beyond(port.Part, port.Line, fmt.Sprintf("opens port %d, and the ceiling %s does not", port.Number, b.Path), raise(fmt.Sprintf("#: port %d", port.Number)))
		}
	}
	for _, e := range p.Egress {
		if !b.covers(e) {
			return nil, beyond(e.Part, e.Line, fmt.Sprintf("opens %s, and the ceiling %s does not", e, b.Path), raise("#: egress "+e.String()))
		}
	}
	over := b.beyond(p.Rules)
	for i, l := range p.Rules {
		line := flaws.Excerpt(l.Source)
		switch e := over[i]; {
		case l.Number == 0:
		case e.host != "":
			return nil, beyond(l.Part, l.Number, fmt.Sprintf("%s admits %s, and the ceiling %s does not", line, e.host, b.Path), "write what is narrower, or widen the ceiling")
		case e.why != nil:
			return nil, beyond(l.Part, l.Number, fmt.Sprintf("%s cannot be compared with the ceiling %s: %v", line, b.Path, e.why), "write names of hosts")
		}
	}
	return p.without(b, over), nil
}

// without returns a policy without the lines of which over says that they are beyond the bound, and without ports and openings beyond it.
func (p *Policy) without(b *bound, over []excess) *Policy {
	less := *p
	less.Rules, less.Ports, less.Egress = nil, nil, nil
	for i, l := range p.Rules {
		if over[i] == (excess{}) {
			less.Rules = append(less.Rules, l)
		}
	}
	for _, port := range p.Ports {
		if b.opens(port) {
			less.Ports = append(less.Ports, port)
		}
	}
	for _, e := range p.Egress {
		if b.covers(e) {
			less.Egress = append(less.Egress, e)
		}
	}
	return &less
}

// Under returns the same policy without what is beyond a ceiling. A last good policy must not keep what a lower ceiling has taken away.
// Without lines it admits nothing: under a ceiling New makes no policy of a black list, of which that would not be so.
func (p *Policy) Under(c *rules.Ceiling) *Policy {
	if c == nil || p.Ceiling == c {
		return p
	}
	less := &Policy{}
	if b, err := boundBy(c, p.Template, p.Config.Filter); err == nil {
		less = p.without(b, b.beyond(p.Rules))
	} else {
		*less = *p
		less.Rules, less.Ports, less.Egress = nil, nil, nil
	}
	less.Ceiling = c
	return less.sealed()
}

// MayAllow returns why hosts cannot be allowed by lines with their names; nil if they can. A host without a name is its port alone.
func (p *Policy) MayAllow(hosts ...rules.Host) error {
	f := p.Config.Filter
	if !f.AllowsByLine() {
		return errors.New("the template `config` says FilterDefaultDeny No, or has FilterURLs: a host cannot be allowed by a line with its name")
	}
	if p.Ceiling == nil {
		return nil
	}
	b, err := boundBy(p.Ceiling, p.Template, f)
	if err != nil {
		return err
	}
	for _, host := range hosts {
		if host.Port != 0 && !slices.Contains(p.Config.ConnectPorts, host.Port) && !b.opens(rules.Port{Number: host.Port}) {
			return fmt.Errorf("port %d is not open by the ceiling %s: widen that first", host.Port, b.Path)
		}
		if host.Name == "" {
			continue
		}
		lines, err := rules.File{}.With(SyntaxOf(f), []rules.Host{host}).Lines(SyntaxOf(f))
		if err != nil {
			return err
		}
		var own []tinyproxy.FilterLine
		for _, l := range lines {
			own = append(own, tinyproxy.FilterLine{Text: l.Text})
		}
		for _, e := range b.beyond(own) {
			if e != (excess{}) {
				return fmt.Errorf("%s is beyond the ceiling %s: widen that first", host.WithoutPort(), b.Path)
			}
		}
	}
	return nil
}
