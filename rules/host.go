package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"vifproxy/rules/expression"
	"vifproxy/rules/flaws"
	"vifproxy/rules/hostname"
	"vifproxy/rules/shape"
)

// A Host is what a person wants to allow: one host name or address, or with Below all names below it.
type Host struct {
	Name  string // lower case, punycode, no dot at the end; or an address
	Below bool
	Port  uint16 // to be opened with it; 0 if none
}

func (h Host) String() string {
	text := h.Name
	switch {
	case h.Below:
		text = "*." + text
	case strings.Contains(text, ":"):
		text = "[" + text + "]"
	}
	if h.Port != 0 {
		text += ":" + strconv.Itoa(int(h.Port))
	}
	return text
}

// entry returns the host as a File keeps it: the name or the address alone, or *.NAME.
func (h Host) entry() string {
	if h.Below {
		return "*." + h.Name
	}
	return h.Name
}

// IsAddr reports whether the host is an address, below which there is nothing.
func (h Host) IsAddr() bool {
	_, err := netip.ParseAddr(h.Name)
	return err == nil
}

// WithoutPort returns the host alone.
func (h Host) WithoutPort() Host { return Host{Name: h.Name, Below: h.Below} }

// ParseEntry reads a host as a list of names has it: HOST, *.HOST or an address, with or without a port.
func ParseEntry(text string) (Host, error) {
	h, flaw := parseEntry(text)
	if flaw != nil {
		return h, flaw
	}
	return h, nil
}

// ParseHost reads a host as people have it at hand: a name in any writing, a URL from the address bar, or a name with a port.
// "*.example.com" stands for the names below example.com. Port 80 without a scheme, and the usual port of a scheme, count as no
// port. Web sockets without encryption (ws) need port 80, because browsers make a tunnel for them. A URL that no web proxy serves,
// a network and an e-mail address are errors.
func ParseHost(text string) (Host, error) {
	name, scheme := text, ""
	before, rest, isURL := strings.Cut(name, "://")
	if isURL = isURL && !strings.ContainsAny(before, "/."); isURL {
		if scheme, name = strings.ToLower(before), rest; !isWeb(scheme) {
			return Host{}, fmt.Errorf("%s: a web proxy does not speak %.20q", flaws.Excerpt(text), scheme)
		}
	} else if network, err := netip.ParsePrefix(text); err == nil {
		return Host{}, fmt.Errorf("%s is a network: name the hosts in it", network)
	}
	name, _, _ = strings.Cut(name, "/")
	name, _, _ = strings.Cut(name, "?")
	name, _, _ = strings.Cut(name, "#")
	if at := strings.LastIndexByte(name, '@'); at >= 0 {
		if !isURL {
			return Host{}, fmt.Errorf("%s is not a host name: write what is behind the '@', if that is meant", flaws.Excerpt(text))
		}
		name = name[at+1:] // user and password are left out
	}
	// http:/bank.example and https//bank.example are slips.
	if scheme, colon := strings.CutSuffix(strings.ToLower(name), ":"); name == "" || isWeb(scheme) && (colon || !isURL && strings.Contains(text, "/")) {
		return Host{}, fmt.Errorf("%s is not a host name: write HOST, or a URL such as https://bank.example/", flaws.Excerpt(text))
	}
	if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && addr.Is6() || strings.HasPrefix(name, "[") {
		return Host{}, fmt.Errorf("%s is an IPv6 address: name the host, or write the address into the list by hand, "+
			"[2001:db8::1] in a list of names", flaws.Excerpt(name))
	}
	h, err := ParseEntry(name)
	if err != nil {
		return h, err
	}
	usual := map[string]uint16{"": 80, "http": 80, "https": 443, "wss": 443}[scheme]
	switch {
	case scheme == "ws":
		h.Port = cmp.Or(h.Port, 80)
	case h.Port == usual:
		h.Port = 0
	}
	return h, nil
}

// isWeb reports whether a web proxy serves URLs of a scheme, which is in lower case.
func isWeb(scheme string) bool {
	return slices.Contains([]string{"http", "https", "ws", "wss"}, scheme)
}

// Objection returns why a host should not be on a white list, and what to do; "" if nothing is wrong with it.
func (h Host) Objection() string {
	addr, err := netip.ParseAddr(h.Name)
	switch {
	case hostname.TooWide(h.Name):
		return fmt.Sprintf("%s is a public suffix: below it anybody can have a name; name a host below it", h.Name)
	case h.Name == "localhost", strings.HasSuffix(h.Name, ".localhost"), err == nil && (addr.IsLoopback() || addr.IsUnspecified()):
		return fmt.Sprintf("%s is the firewall VM itself, where no proxy leads; name the host that is meant", h.Name)
	}
	return ""
}

// Wildcard returns the narrowest line for several hosts of one site: all hosts below the longest domain that they have in common. of are
// those for which it is: neither addresses nor the site itself. It is empty if these are fewer than two, or if a list should not have the
// line. The ports of the hosts do not matter.
func Wildcard(hosts []Host) (w Host, of []Host) {
	for _, h := range hosts {
		_, domain, _ := strings.Cut(h.Name, ".")
		if h.IsAddr() || h.Below || h.Name == hostname.Site(h.Name) {
			continue
		}
		if of = append(of, h); len(of) == 1 {
			w = Host{Name: domain, Below: true}
		}
		for w.Name != "" && !strings.HasSuffix(h.Name, "."+w.Name) {
			_, w.Name, _ = strings.Cut(w.Name, ".")
		}
	}
	if len(of) < 2 || w.Name == "" || w.Objection() != "" {
		return Host{}, nil
	}
	return w, of
}

// Lacks returns the lines that the file needs in addition to allow a host, with its port.
func (f File) Lacks(s Syntax, h Host) (lines []string) {
	if f.domains {
		if !slices.ContainsFunc(f.entries, func(l Line) bool { return f.standsFor(s, l, h) && l.Port == h.Port }) {
			lines = append(lines, h.String())
		}
		return lines
	}
	if h.Port != 0 && !slices.ContainsFunc(f.Ports, func(p Port) bool { return p.Number == h.Port }) {
		lines = append(lines, portLine(h.Port))
	}
	if !slices.ContainsFunc(f.entries, func(l Line) bool { return f.standsFor(s, l, h) }) {
		lines = append(lines, s.Language.LineFor(h.Name, h.Below))
	}
	return lines
}

// standsFor reports whether a line stands for the host and for nothing else, in any writing. Its port does not matter.
func (f File) standsFor(s Syntax, l Line, h Host) bool {
	language := s.Language
	if f.domains {
		language = expression.Fnmatch // names and *.names look the same in it
	}
	form := shape.Of(language, l.Text)
	return form.Exact() && strings.EqualFold(form.Domain, h.Name) && form.Below == h.Below
}

// With returns the file with more hosts at its end, which come from no line of it. The Line of hosts[i] is -1-i.
func (f File) With(s Syntax, hosts []Host) File {
	f.entries, f.Ports = slices.Clip(f.entries), slices.Clip(f.Ports)
	for i, h := range hosts {
		text := h.entry()
		if !f.domains {
			text = s.Language.LineFor(h.Name, h.Below)
		}
		f.entries = append(f.entries, Line{Text: text, Line: -1 - i})
		if h.Port != 0 {
			f.Ports = append(f.Ports, Port{Number: h.Port, Line: -1 - i, Text: h.String()})
		}
	}
	return f
}

// Without returns content, from which f was parsed, without the lines that allow these hosts and nothing else, and the text of
// these lines. Lines of lists that it includes stay. A host without a port goes with all ports that lines name with it. In a file of patterns, where a port belongs to
// no host, a host with a port takes the port away too.
func (f File) Without(content []byte, s Syntax, hosts []Host) (changed []byte, removed []string) {
	f = f.Parts()[0]
	edits := map[int]string{} // by line: what becomes of it, "" if nothing
	for _, h := range hosts {
		for _, l := range f.entries {
			if f.standsFor(s, l, h) && (!f.domains || h.Port == 0 || h.Port == l.Port) {
				if _, twice := edits[l.Line]; !twice {
					removed = append(removed, l.Source)
				}
				edits[l.Line] = ""
			}
		}
		if f.domains || h.Port == 0 {
			continue
		}
		for _, p := range f.Ports {
			if p.Number == h.Port {
				removed = append(removed, portLine(h.Port))
				edits[p.Line] = ""
			}
		}
	}
	// A directive may open other ports as well.
	for _, p := range f.Ports {
		text, edited := edits[p.Line]
		goes := slices.ContainsFunc(hosts, func(h Host) bool { return h.Port == p.Number })
		switch {
		case f.domains || !edited || goes:
		case text == "":
			edits[p.Line] = portLine(p.Number)
		default:
			edits[p.Line] = text + " " + strconv.Itoa(int(p.Number))
		}
	}
	return rewriteLines(content, edits), removed
}

func portLine(number uint16) string { return fmt.Sprintf("#: port %d", number) }

// ParseHosts reads hosts as people name them: as a list of names has them, or as in [ParseHost].
func ParseHosts(texts []string) (hosts []Host, err error) {
	for _, text := range texts {
		host, err := ParseEntry(text)
		if err != nil {
			host, err = ParseHost(text)
		}
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}
