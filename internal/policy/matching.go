package policy

import (
	"context"
	"slices"

	"vifproxy/rules/match"
	"vifproxy/tinyproxy"
)

// Judge returns the judge of what the policy's lines match.
func (p *Policy) Judge() tinyproxy.Judge {
	return tinyproxy.Judge{Binary: p.Binary.Path, Filter: p.Config.Filter.Compiled()}
}

// Matching returns the first lines that match a request, at most most, as indexes into Rules. A real tinyproxy is asked about lines
// of which package rules/match does not know exactly what they match.
func (p *Policy) Matching(ctx context.Context, r tinyproxy.Request, most int) ([]int, error) {
	texts := p.texts()
	f := p.Config.Filter.Compiled()
	m := match.New(texts, SyntaxOf(f))
	found := m.Lines(f.Compared(r), most)
	if m.Exact() {
		return found, nil
	}
	var unknown []string
	for _, line := range m.Inexact() {
		unknown = append(unknown, texts[line.Line])
	}
	judged, err := p.Judge().Matches(ctx, unknown, []tinyproxy.Request{r}, most)
	if err != nil {
		return nil, err
	}
	for _, i := range judged[0] {
		found = append(found, m.Inexact()[i].Line)
	}
	slices.Sort(found)
	return found[:min(most, len(found))], nil
}

// Permits reports whether the list lets a tunnel to a host pass.
func (p *Policy) Permits(ctx context.Context, host string) (bool, error) {
	matching, err := p.Matching(ctx, tinyproxy.Request{Tunnel: true, Host: host, Port: 443}, 1)
	return err == nil && (len(matching) > 0) == p.Config.Filter.DefaultDeny, err
}
