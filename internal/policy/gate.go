package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"vifproxy/names/wire"
	"vifproxy/rules"
	"vifproxy/rules/match"
)

// listedMax is how many addresses a list may name. With more, any public address is open.
const listedMax = 256

// Gate returns what names the policy's proxy may ask for, without what is about a process. forAll is what is open for all proxies.
func (p *Policy) Gate(forAll []rules.Egress) wire.Gate {
	f := p.Config.Filter.Compiled()
	g := wire.Gate{Also: p.Config.Names(), Language: SyntaxOf(f).Language.String()}
	for _, e := range slices.Concat(p.Egress, forAll) {
		g.Openings = append(g.Openings, e.To)
	}
	switch {
	case p.Config.AllUpstream(): // the Upstream asks for all other names
	case !f.Enabled, f.URLs:
		g.Everything = true
	default:
		g.DefaultAllow, g.CaseSensitive, g.Lines = !f.DefaultDeny, f.CaseSensitive, p.texts()
	}
	return g
}

// texts returns the lines as tinyproxy gets them.
func (p *Policy) texts() []string {
	texts := make([]string, len(p.Rules))
	for i, line := range p.Rules {
		texts[i] = line.Text
	}
	return texts
}

// numbers returns the addresses that the list permits by number. No look-up tells these to the fence. If they cannot be listed, or if
// names cannot be told apart, anyAddress says why, and the fence has to let the proxy connect to any public address.
func (p *Policy) numbers() (listed []netip.Addr, anyAddress string) {
	f := p.Config.Filter.Compiled()
	switch {
	case p.Config.AllUpstream():
		return nil, ""
	case !f.Enabled:
		return nil, "the template has no Filter"
	case f.URLs:
		return nil, "with FilterURLs, lines are compared with whole URLs"
	case !f.DefaultDeny:
		return nil, "it is a black list"
	}
	listed, endless := match.Addresses(p.texts(), SyntaxOf(f), listedMax)
	if endless >= 0 {
		where := "what is allowed for a time"
		if l := p.Rules[endless]; l.Number > 0 {
			if where = fmt.Sprintf("line %d", l.Number); l.Part != "" {
				where += " of " + l.Part
			}
		}
		return nil, fmt.Sprintf("%s matches more than %d addresses", where, listedMax)
	}
	return listed, ""
}
