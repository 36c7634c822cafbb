// Package propose makes lines of a list out of what an AppVM asked for. It groups hosts by site, the domain that one owner has. It
// keeps apart what browsers ask for by themselves. It says what a line admits that nobody asked for. A person decides: package propose
// changes nothing.
//
// An AppVM chooses the names. A name that is no host name gets no line, and neither does a name that is too wide for a list; both are
// in [Proposal.LeftOut], as they came. Every other text of a proposal is plain.
//
// Concurrency: its functions may be called from any goroutine.
package propose

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/hostname"
	"vifproxy/rules/match"
)

// A Host is what an AppVM asked for: a host at one port.
type Host struct {
	Name    string // as the AppVM sent it
	Port    uint16 // that is needed for it, such as 443; 0 if none is known, and for plain requests at port 80
	Count   int
	First   time.Time
	Last    time.Time
	Browser string // what browsers want of it by themselves, for a person; "" if none is known to ask for it
	Closed  bool   // a lesson refused it because its port is not open
}

// A List is the list that gets the lines.
type List struct {
	File   rules.File
	Syntax rules.Syntax
	Ports  []uint16 // that are open for all AppVMs
	// MayAllow returns why hosts are beyond a ceiling; nil if they are not. Without it there is no ceiling.
	MayAllow func(...rules.Host) error
}

// A Proposal is the lines that a list could get. It has no line for what the list permits already.
type Proposal struct {
	Sites      []Site    `json:"sites"`      // that a page may need; never null
	Background []Site    `json:"background"` // that browsers ask for by themselves; never null
	LeftOut    []LeftOut `json:"left_out"`   // for which there is no line; never null
}

// A Site is hosts that belong to one owner.
type Site struct {
	Name  string `json:"site"`  // their registrable domain, by the public suffix list; or the one host or address
	Lines []Line `json:"lines"` // for one host each, in the order of their names
	// Wildcard is a line for all hosts of the site below the longest domain that they have in common. There is one if the AppVM asked
	// for several hosts below that domain.
	Wildcard *Line `json:"wildcard,omitempty"`
}

// A Line is a line that a list could get.
type Line struct {
	Text  string    `json:"line"`  // as a list of names has it: HOST, HOST:PORT or *.DOMAIN
	Hosts []string  `json:"hosts"` // for which it would be added
	Count int       `json:"count"` // of requests
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	For   string    `json:"for,omitempty"` // what browsers want of the host by themselves
	// Closed says that a lesson refused what the line is for, because its port is not open.
	Closed bool `json:"closed,omitempty"`
	// Beyond says that a ceiling does not admit the line, and names it; "" if it does. Such a line is not accepted.
	Beyond string `json:"beyond,omitempty"`
	// Admits is a shortest host that the line admits and nobody asked for; "" if there is none. Unknown says why that is not known.
	Admits  string `json:"admits,omitempty"`
	Unknown string `json:"unknown,omitempty"`

	Host rules.Host `json:"-"` // the same as Text
}

// LeftOut is a host for which there is no line.
type LeftOut struct {
	Host string `json:"host"` // as the AppVM sent it
	Why  string `json:"why"`
}

// Of returns the lines that permit what an AppVM asked for. Sites, lines and what is left out are in the order of their names.
func Of(list List, asked []Host) Proposal {
	p := Proposal{Sites: []Site{}, Background: []Site{}, LeftOut: []LeftOut{}}
	permitted := list.matcher(nil)
	lines := map[string]*Line{}
	for _, a := range asked {
		host, why := list.hostOf(a)
		switch {
		case why != "":
			p.LeftOut = append(p.LeftOut, LeftOut{a.Name, why})
			continue
		case list.opens(host.Port):
			if passes, _ := permitted.Permits(host.Name); passes {
				continue
			}
		}
		text := host.String()
		if l := lines[text]; l != nil {
			l.add(a)
			continue
		}
		lines[text] = &Line{Text: text, Hosts: []string{host.Name}, Count: a.Count, First: a.First, Last: a.Last, For: a.Browser, Closed: a.Closed, Host: host}
	}
	for _, l := range lines {
		sites := &p.Sites
		if l.For != "" {
			sites = &p.Background
		}
		name := hostname.Site(l.Host.Name)
		i := slices.IndexFunc(*sites, func(s Site) bool { return s.Name == name })
		if i < 0 {
			i, *sites = len(*sites), append(*sites, Site{Name: name})
		}
		(*sites)[i].Lines = append((*sites)[i].Lines, *l)
	}
	byName := func(a, b Site) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(p.Sites, byName)
	slices.SortFunc(p.Background, byName)
	slices.SortFunc(p.LeftOut, func(a, b LeftOut) int { return strings.Compare(a.Host, b.Host) })
	p.LeftOut = slices.Compact(p.LeftOut)
	for _, s := range slices.Concat(p.Sites, p.Background) {
		slices.SortFunc(s.Lines, func(a, b Line) int {
			return cmp.Or(strings.Compare(a.Host.Name, b.Host.Name), cmp.Compare(a.Host.Port, b.Host.Port))
		})
	}
	for i := range p.Sites {
		p.Sites[i].Wildcard = wildcard(p.Sites[i])
	}
	list.compare(&p)
	list.limit(&p)
	return p
}

// limit marks the lines that a ceiling does not admit.
func (l List) limit(p *Proposal) {
	if l.MayAllow == nil {
		return
	}
	mark := func(line *Line) {
		if err := l.MayAllow(line.Host); err != nil {
			line.Beyond = err.Error()
		}
	}
	for _, s := range slices.Concat(p.Sites, p.Background) {
		for i := range s.Lines {
			mark(&s.Lines[i])
		}
		if s.Wildcard != nil {
			mark(s.Wildcard)
		}
	}
}

// add counts another request that the line is for.
func (l *Line) add(a Host) {
	l.Count += a.Count
	l.Closed = l.Closed && a.Closed
	if a.First.Before(l.First) {
		l.First = a.First
	}
	if a.Last.After(l.Last) {
		l.Last = a.Last
	}
}

// hostOf returns what a list has for a host, or why it should not have it.
func (l List) hostOf(a Host) (rules.Host, string) {
	name := a.Name
	if addr, err := netip.ParseAddr(name); err == nil && addr.Is6() { // a list has it in brackets
		name = "[" + name + "]"
	}
	host, err := rules.ParseEntry(name)
	switch {
	case err != nil:
		return host, "it is not a host name"
	case host.Port != 0: // behind a colon: a.Port is the one that was asked for
		return host, "it is not a host name"
	case host.Below:
		return host, "it is not one host"
	case host.Objection() != "":
		return host, host.Objection()
	}
	if !slices.Contains(l.Ports, a.Port) {
		host.Port = a.Port
	}
	return host, ""
}

// opens reports whether the list opens a port; no port is open.
func (l List) opens(port uint16) bool {
	return port == 0 || slices.ContainsFunc(l.File.Ports, func(p rules.Port) bool { return p.Number == port })
}

// matcher returns what the list permits with more hosts. A list that cannot be read permits nothing.
func (l List) matcher(more []rules.Host) *match.Matcher {
	lines, _ := l.File.With(l.Syntax, more).Lines(l.Syntax)
	return match.New(texts(lines), l.Syntax.Compiled())
}

func texts(lines []rules.Line) (all []string) {
	for _, l := range lines {
		all = append(all, l.Text)
	}
	return all
}

// compare finds what wildcards admit that nobody asked for. A line for one host admits that host alone.
func (l List) compare(p *Proposal) {
	var asked, wide []rules.Host
	for _, s := range slices.Concat(p.Sites, p.Background) {
		for _, line := range s.Lines {
			asked = append(asked, line.Host)
		}
		if s.Wildcard != nil {
			wide = append(wide, s.Wildcard.Host)
		}
	}
	if len(wide) == 0 {
		return
	}
	lines, _ := l.File.With(l.Syntax, wide).Lines(l.Syntax)
	lines = slices.DeleteFunc(lines, func(l rules.Line) bool { return l.Line > 0 })
	difference := match.New(texts(lines), l.Syntax.Compiled()).Without(l.matcher(asked), match.Names)
	for _, s := range p.Sites {
		number := slices.IndexFunc(wide, func(h rules.Host) bool { return s.Wildcard != nil && h == s.Wildcard.Host })
		if number < 0 {
			continue
		}
		host, _, err := difference.Beyond(number)
		if s.Wildcard.Admits = host; err != nil {
			s.Wildcard.Unknown = err.Error()
		}
	}
}

// wildcard returns the line for all hosts of a site, or nil if it has fewer than two below one domain.
func wildcard(s Site) *Line {
	var hosts []rules.Host
	for _, l := range s.Lines {
		if l.Host.Port == 0 { // a wildcard opens no port
			hosts = append(hosts, l.Host)
		}
	}
	host, of := rules.Wildcard(hosts)
	var w *Line
	for _, l := range s.Lines {
		switch {
		case !slices.Contains(of, l.Host):
		case w == nil:
			l.Text, l.Host, l.Hosts = host.String(), host, []string{l.Host.Name}
			w = &l
		default:
			w.Hosts = append(w.Hosts, l.Host.Name)
			w.add(Host{Count: l.Count, First: l.First, Last: l.Last})
		}
	}
	return w
}
