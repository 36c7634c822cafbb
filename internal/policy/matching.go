package policy

import (
	"context"
	"slices"
	"sync"

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

// A comparison remembers what came out when a policy was compared with another one, because the loop asks again in each round.
type comparison struct {
	mu         sync.Mutex
	with       string // the key of the other policy
	matchesAll bool
}

// matchesAll reports whether p's lines match every text that a line of other matches. If that cannot be said, it reports false.
func (p *Policy) matchesAll(other *Policy) bool {
	own := make(map[string]bool, len(p.Rules))
	for _, text := range p.texts() {
		own[text] = true
	}
	changed := slices.DeleteFunc(other.texts(), func(text string) bool { return own[text] })
	if len(changed) == 0 {
		return true
	}
	p.compared.mu.Lock()
	defer p.compared.mu.Unlock()
	if p.compared.with != other.key {
		p.compared.with, p.compared.matchesAll = other.key, p.matchesLines(changed)
	}
	return p.compared.matchesAll
}

func (p *Policy) matchesLines(lines []string) bool {
	syntax := SyntaxOf(p.Config.Filter.Compiled())
	beyond := match.New(lines, syntax).Without(match.New(p.texts(), syntax), match.AllTexts)
	for i := range lines {
		if _, found, err := beyond.Beyond(i); found || err != nil {
			return false
		}
	}
	return true
}
