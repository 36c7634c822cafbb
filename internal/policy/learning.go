package policy

import (
	"slices"

	"vifproxy/rules/match"
	"vifproxy/tinyproxy"
)

// anyName is a line that permits every host by a name. An address in the usual notation does not match it, because it has no letter, '-'
// or '_'. One in another notation, such as 0x7f.1, does, and the fence refuses it.
const anyName = `^[0-9A-Za-z._-]*[A-Za-z_-][0-9A-Za-z._-]*$`

// Learning returns the policy for a lesson, see package plan: every host by its name, as far as a ceiling admits it, in addition to what p
// permits. Ports, openings and addresses are those of p, so beyond these the fence opens only what the resolver has answered.
func (p *Policy) Learning(lesson int) *Policy {
	open := *p
	open.Lesson = lesson
	open.Rules = slices.Clone(p.Rules)
	for _, line := range p.widest() {
		if !slices.ContainsFunc(open.Rules, func(l tinyproxy.FilterLine) bool { return l.Text == line }) {
			open.Rules = append(open.Rules, tinyproxy.FilterLine{Text: line})
		}
	}
	open.key, open.compared = open.digest(), &comparison{}
	return &open
}

// widest returns lines for all that a list may admit by name: every name, or what a ceiling admits.
func (p *Policy) widest() (texts []string) {
	if p.Ceiling == nil {
		return []string{anyName}
	}
	lines, err := p.Ceiling.Lines(SyntaxOf(p.Config.Filter))
	if err != nil {
		return nil // there would be no policy
	}
	for _, line := range lines {
		if _, misleads := p.Config.MisleadsUpstream(line.Text); !misleads {
			texts = append(texts, line.Text)
		}
	}
	return texts
}

// Learns reports whether this is the policy of a lesson.
func (p *Policy) Learns() bool { return p.Lesson != 0 }

// Matcher returns what the lines of the list match.
func (p *Policy) Matcher() *match.Matcher {
	return match.New(p.texts(), SyntaxOf(p.Config.Filter.Compiled()))
}
