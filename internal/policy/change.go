package policy

import (
	"cmp"
	"fmt"
	"slices"

	"vifproxy/rules"
	"vifproxy/rules/match"
	"vifproxy/tinyproxy"
)

// A Change is one difference between two lists of an AppVM: a line, a port or an opening.
type Change struct {
	Path   string `json:"path,omitempty"` // of the list that has the line, if that is included
	Line   int    `json:"line,omitempty"` // of the new list if Added, of the old one otherwise
	Text   string `json:"text"`           // as it is written; of ports and openings the directive that says the same
	Added  bool   `json:"added"`
	Admits bool   `json:"admits"`         // what changes is permitted now; otherwise it is not any more
	Host   string `json:"host,omitempty"` // a shortest host of which that is true; empty if the line changes nothing, and for ports and openings
	Why    string `json:"why,omitempty"`  // why it is not known what a line changes
}

// ChangesFrom returns the differences between an old policy, made with the same template, and p.
func (p *Policy) ChangesFrom(old *Policy) (all []Change) {
	white := p.Config.Filter.DefaultDeny
	all = append(old.lines(p, false, !white), p.lines(old, true, white)...)
	ports := func(of, other *Policy, added bool) {
		for _, port := range of.Ports {
			if !slices.Contains(other.portNumbers(), port.Number) {
				all = append(all, Change{Path: port.Part, Line: port.Line, Text: fmt.Sprintf("#: port %d", port.Number), Added: added, Admits: added})
			}
		}
		for _, e := range of.Egress {
			if !slices.ContainsFunc(other.Egress, func(wider rules.Egress) bool { return wider.Covers(e) }) {
				all = append(all, Change{Path: e.Part, Text: "#: egress " + e.String(), Added: added, Admits: added})
			}
		}
	}
	ports(old, p, false)
	ports(p, old, true)
	return all
}

// lines returns p's lines that another policy does not have.
func (p *Policy) lines(other *Policy, added, admits bool) (all []Change) {
	same := map[string]bool{}
	for _, text := range other.texts() {
		same[text] = true
	}
	changed := slices.DeleteFunc(slices.Clone(p.Rules), func(l tinyproxy.FilterLine) bool { return same[l.Text] })
	slices.SortStableFunc(changed, func(a, b tinyproxy.FilterLine) int {
		return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Number, b.Number))
	})
	texts := make([]string, len(changed))
	for i, l := range changed {
		texts[i] = l.Text
	}
	syntax := SyntaxOf(p.Config.Filter.Compiled())
	difference := match.New(texts, syntax).Without(match.New(other.texts(), syntax), match.Names)
	for i, l := range changed {
		host, found, err := difference.Beyond(i)
		c := Change{Path: l.Part, Line: l.Number, Text: l.Source, Added: added, Admits: admits}
		if last := len(all) - 1; last >= 0 && all[last].Line == l.Number && all[last].Path == l.Part { // a name may become two lines
			c, all = all[last], all[:last]
		}
		if found && c.Host == "" {
			c.Host = host
		}
		if err != nil {
			c.Why = err.Error()
		}
		all = append(all, c)
	}
	return all
}
