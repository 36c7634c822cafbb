package names

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"vifproxy/names/ask"
	"vifproxy/names/wire"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
)

// knownMax is for how many names a gate remembers whether it permits them.
const knownMax = 1024

// A gate is what one generation of a proxy may ask for.
type gate struct {
	id         int64
	everything bool
	lenient    bool // it has no white list: clients may choose the names that its proxy asks for
	matcher    *match.Matcher
	also       map[string]bool // in lower case
	openings   []netip.Prefix

	mu    sync.Mutex
	known map[string]verdict
}

// A verdict says whether a name is permitted.
type verdict int

const (
	no verdict = iota
	yes
	doubt // only a real tinyproxy can tell
)

func newGate(w *wire.Gate) (*gate, error) {
	language, ok := expression.ParseLanguage(w.Language)
	if !ok && len(w.Lines) > 0 {
		return nil, fmt.Errorf("gate %d: the language %q is not known", w.ID, w.Language)
	}
	g := &gate{id: w.ID, everything: w.Everything, lenient: w.Everything || w.DefaultAllow, openings: w.Openings,
		also: map[string]bool{}, known: map[string]verdict{}}
	for _, name := range w.Also {
		g.also[plain(name)] = true
	}
	if !w.Everything {
		g.matcher = match.New(w.Lines, expression.Syntax{Language: language, CaseSensitive: w.CaseSensitive, DefaultAllow: w.DefaultAllow})
	}
	return g, nil
}

// plain returns a name as the DNS compares it.
func plain(name string) string { return ask.Lower(strings.TrimSuffix(name, ".")) }

// forms returns what a client may have written, for which the C library asks for a name: it removes one period at the end. The lower
// case is for what stands between tinyproxy and us, and may change it, as some modules of nsswitch.conf do.
func forms(name string) []string {
	all := []string{name, name + "."}
	if lower := ask.Lower(name); lower != name {
		all = append(all, lower, lower+".")
	}
	return all
}

// permits reports whether a tinyproxy with this list asks for a name.
func (g *gate) permits(name string) verdict {
	g.mu.Lock()
	v, ok := g.known[name]
	g.mu.Unlock()
	if ok {
		return v
	}
	if v = g.judge(name); v != doubt {
		g.learn(name, v)
	}
	return v
}

// learn remembers a verdict.
func (g *gate) learn(name string, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.known) == knownMax {
		clear(g.known)
	}
	g.known[strings.Clone(name)] = v
}

func (g *gate) judge(name string) verdict {
	switch {
	case g.also[plain(name)]:
		return yes
	case !sendable(name):
		return no
	case g.everything:
		return yes
	}
	v := no
	for _, form := range forms(name) {
		permits, line := g.matcher.Permits(form)
		switch {
		case g.matcher.Exact() || line >= 0: // what is not exact takes nothing away from a line that matches
			if permits {
				return yes
			}
		case printable(form): // or no report could have it, see package wire
			v = doubt
		}
	}
	return v
}

// printable reports whether a name consists of printable ASCII, as those of all hosts do.
func printable(name string) bool {
	return !strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' })
}

// sendable reports whether a request can have a name: what ends a host or a request line is in none (extract_url and get_request_line in
// src/reqs.c of tinyproxy 1.11).
func sendable(name string) bool { return name != "" && !strings.ContainsAny(name, "\x00\r\n /") }

// opens reports whether an opening leads to an address.
func (g *gate) opens(addr netip.Addr) bool {
	for _, to := range g.openings {
		if to.Contains(addr) {
			return true
		}
	}
	return false
}
