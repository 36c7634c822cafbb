package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// A Host is what a person wants to allow: one host name, or with Below all names below it.
type Host struct {
	Name  string // lower case, punycode, no dot at the end
	Below bool
}

func (h Host) String() string {
	if h.Below {
		return "*." + h.Name
	}
	return h.Name
}

// ParseHost takes a host as people have it at hand: a name in any writing, a URL from the address bar, a name with a
// port. "*.example.com" is the names below example.com.
func ParseHost(text string) (Host, error) {
	name := text
	if scheme, rest, ok := strings.Cut(name, "://"); ok && !strings.ContainsAny(scheme, "/.") {
		name = rest
	}
	name, _, _ = strings.Cut(name, "/")
	name, _, _ = strings.Cut(name, "?")
	name, _, _ = strings.Cut(name, "#")
	if at := strings.LastIndexByte(name, '@'); at >= 0 { // a password has no business here; the host is what follows
		name = name[at+1:]
	}
	if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil && addr.Is6() || strings.HasPrefix(name, "[") {
		return Host{}, fmt.Errorf("%s is an IPv6 address: name the host, proxies speak IPv4 here", excerpt(name))
	}
	if host, port, ok := strings.Cut(name, ":"); ok && strings.Trim(port, "0123456789") == "" {
		name = host
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return Host{}, fmt.Errorf("%s is an address, not a name: if nothing else will do, write the line %s"+
			` into a rule file without "#: format domains" by hand`, addr, Basic.name(addr.String(), false))
	}
	rest, below := strings.CutPrefix(name, "*.")
	canon, flaw := canonical(rest)
	if flaw != nil {
		return Host{}, fmt.Errorf("%s (%s)", flaw.Text, flaw.Remedy)
	}
	return Host{Name: canon, Below: below}, nil
}

// TooWide says why a host should not be on a white list; "" if nothing is wrong with it.
func (h Host) TooWide() string {
	if tooWide(h.Name) {
		return fmt.Sprintf("%s is a public suffix: below it anybody can have a name", h.Name)
	}
	return ""
}

// Entry returns the line for a host in this file: the line that is added to allow it.
func (f File) Entry(s Syntax, h Host) string {
	if f.domains {
		return h.String()
	}
	return s.Language.name(h.Name, h.Below)
}

// Entries returns the entries in the file that stand for the host and for nothing else, in whatever way they are written.
func (f File) Entries(s Syntax, h Host) (all []string) {
	language := s.Language
	if f.domains {
		language = Fnmatch // names and *.names look the same in it
	}
	for _, line := range f.entries {
		shape := language.shapeOf(line.Text)
		same := strings.EqualFold(shape.domain, h.Name) && shape.below == h.Below
		if shape.exact() && same && !slices.Contains(all, line.Text) {
			all = append(all, line.Text)
		}
	}
	return all
}

// With returns the file with more entries at its end, which come from no line of it: the
// Line of entries[i] is -1-i.
func (f File) With(entries []string) File {
	f.entries = f.entries[:len(f.entries):len(f.entries)]
	for i, text := range entries {
		f.entries = append(f.entries, Line{Text: text, Line: -1 - i})
	}
	return f
}
