package review

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/hostname"
	"vifproxy/rules/match"
)

// Wildcards are lines for what was used of a wide one, with a wildcard where several hosts of one site were used.
type Wildcards struct {
	Lines  []string `json:"lines"`
	Admits string   `json:"admits"` // a shortest host that they permit and that nobody has requested
	Loses  string   `json:"loses"`  // a shortest host that would not be permitted any more
}

// A Narrowing is what Fix writes in the place of wide lines.
type Narrowing int

const (
	KeepWide    Narrowing = iota
	ToHosts               // a line for each host that was used
	ToWildcards           // a wildcard for several hosts of one site, if that is narrower; else the hosts
)

// instead returns the lines that a narrowing writes in the place of a wide one; none if it keeps the line.
func (l Line) instead(n Narrowing) []string {
	switch {
	case l.Finding != Wide || n == KeepWide:
		return nil
	case n == ToWildcards && l.Wildcards != nil:
		return l.Wildcards.Lines
	}
	return l.Instead
}

// wide finds the lines that permit more than the hosts that were used. Lines of included lists stay.
func (e *examiner) wide() {
	for i := range e.lines {
		l := &e.lines[i]
		if !e.judged(i) || !e.several[i] || l.More || l.VMs != nil {
			continue
		}
		needed := e.needed(i)
		slices.Sort(needed)
		hosts, ok := e.hostsOf(needed, l.port)
		if !ok {
			continue
		}
		if instead, compiled, ok := e.linesFor(hosts); ok && len(instead) <= narrowerMax {
			if host, found, known := e.loses(i, compiled...); found && known {
				l.Instead, l.Loses = instead, host
			}
		}
		if l.Wildcards = e.wildcards(i, hosts); l.Wildcards != nil && l.Instead == nil {
			l.Loses = l.Wildcards.Loses
		}
		if l.Instead != nil || l.Wildcards != nil {
			l.Finding, l.Early = Wide, l.Counted < int64(e.Enough/time.Second)
		}
	}
}

// wildcards returns lines for hosts that were used of a wide line, with a wildcard for several hosts of one site; nil if there is no
// wildcard that is narrower than the line.
func (e *examiner) wildcards(i int, hosts []rules.Host) *Wildcards {
	var all []rules.Host
	wild := 0
	for _, site := range bySite(hosts) {
		wildcard, of := rules.Wildcard(site)
		wildcard.Port = e.lines[i].port
		if of != nil && e.permitsAll(i, wildcard) {
			wild++
			all = append(all, wildcard)
			site = slices.DeleteFunc(site, func(h rules.Host) bool { return slices.Contains(of, h) })
		}
		all = append(all, site...)
	}
	lines, patterns, ok := e.linesFor(all)
	if wild == 0 || !ok || len(lines) > narrowerMax {
		return nil
	}
	w := &Wildcards{Lines: lines}
	loses, found, known := e.loses(i, patterns...)
	if w.Loses = loses; !found || !known {
		return nil
	}
	_, used, _ := e.linesFor(hosts)
	if w.Admits, known = e.admits(patterns, used); known && len(e.permitting(w.Admits, i)) > 0 { // a list may have thousands of others
		w.Admits, known = e.admits(patterns, e.others(i, used...))
	}
	if !known {
		return nil
	}
	return w
}

// admits returns a shortest host that some patterns permit and others do not; "" if there is none.
func (e *examiner) admits(patterns, others []string) (shortest string, known bool) {
	difference := match.New(patterns, e.syntax).Without(match.New(others, e.syntax), match.Names)
	for number := range patterns {
		host, found, err := difference.Beyond(number)
		if err != nil {
			return "", false
		}
		if found && (shortest == "" || len(host) < len(shortest)) {
			shortest = host
		}
	}
	return shortest, true
}

// permitsAll reports whether a line permits all that the line for a host would permit.
func (e *examiner) permitsAll(i int, host rules.Host) bool {
	_, patterns, ok := e.linesFor([]rules.Host{host})
	for _, pattern := range patterns {
		_, found, err := match.New([]string{pattern}, e.syntax).Without(match.New([]string{e.lines[i].pattern}, e.syntax), match.Names).Beyond(0)
		ok = ok && !found && err == nil
	}
	return ok
}

// bySite returns hosts of one site each, in the order of the first ones.
func bySite(hosts []rules.Host) (sites [][]rules.Host) {
	for _, h := range hosts {
		site := hostname.Site(h.Name)
		at := slices.IndexFunc(sites, func(s []rules.Host) bool { return hostname.Site(s[0].Name) == site })
		if at < 0 {
			at, sites = len(sites), append(sites, nil)
		}
		sites[at] = append(sites[at], h)
	}
	return sites
}

// hostsOf returns hosts that were requested as a list has them, each with a port if that is not 0. ok is false if a list should not have one
// of them.
func (e *examiner) hostsOf(names []string, port uint16) (hosts []rules.Host, ok bool) {
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil && addr.Is6() { // a list has it in brackets
			name = "[" + name + "]"
		}
		host, err := rules.ParseEntry(name)
		if err != nil || host.Below || host.Objection() != "" {
			return nil, false
		}
		host.Port = port
		hosts = append(hosts, host)
	}
	return hosts, true
}

// linesFor returns the lines of a list for hosts, and the patterns of these. ok is false if a list cannot have them.
func (e *examiner) linesFor(hosts []rules.Host) (lines, patterns []string, ok bool) {
	header := "#: format patterns\n"
	if e.File.Names() {
		header = "#: format domains\n"
	}
	empty, err := rules.ParseFile(e.File.Path, []byte(header))
	if err != nil {
		return nil, nil, false
	}
	for _, host := range hosts {
		lines = append(lines, empty.Lacks(e.reading, host)...)
	}
	compiled, err := empty.With(e.reading, hosts).Lines(e.reading)
	for _, l := range compiled {
		patterns = append(patterns, l.Text)
	}
	return lines, patterns, err == nil && !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "#") })
}
