package rules

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"vifproxy/internal/terminal"

	"golang.org/x/net/idna"
)

// A label of a host name as RFC 1123 has it, and the underscore, which DNS knows and some sites use. The
// classes contain no character that is special in a POSIX regex or in fnmatch, besides the '-' outside of
// brackets.
var label = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?$`)

// A name whose last label is a number is an address to browsers and resolvers ("ends in a number" in the URL
// standard), in more notations than one pattern could cover: 127.1, 0x7f000001.
var numeric = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)

// What browsers do with a name that a person types (the URL standard's "domain to ASCII"): map case and width,
// then write punycode. Which characters remain is left to label.
var idn = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false),
	idna.CheckHyphens(false), idna.CheckJoiners(true), idna.BidiRule())

// parseEntry reads an entry of "#: format domains": HOST, *.HOST, an IPv4 address, or an IPv6 address in brackets; each
// with or without a port behind a colon. The error lacks path and line.
func parseEntry(entry string) (h Host, flaw *Error) {
	name, port, hasPort := entry, "", false
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		literal, rest, closed := strings.Cut(inner, "]")
		port, hasPort = strings.CutPrefix(rest, ":")
		addr, err := netip.ParseAddr(literal)
		if !closed || err != nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" || !hasPort && rest != "" {
			return h, &Error{Text: excerpt(entry) + " is not a host name, nor an IPv6 address in brackets",
				Remedy: "write it like [2001:db8::1] or [2001:db8::1]:443"}
		}
		h.Name = addr.String() // as browsers write it
	} else {
		if strings.Count(entry, ":") == 1 && !strings.ContainsAny(entry, "/@") {
			name, port, hasPort = strings.Cut(entry, ":")
		}
		if name, flaw = canonical(name); flaw != nil {
			return h, flaw
		}
		h.Name, h.Below = strings.CutPrefix(name, "*.")
	}
	if h.Port = parsePort(port); hasPort && h.Port == 0 {
		return Host{}, &Error{Text: excerpt(entry) + " has no port from 1 to 65535 behind the colon",
			Remedy: "write one number, or the host alone; more ports are more lines"}
	}
	return h, nil
}

// IsPort reports whether text is a number from 1 to 65535 as people write it.
func IsPort(text string) bool { return parsePort(text) != 0 }

// parsePort reads a number from 1 to 65535 as people write it; 0 if it is none.
func parsePort(text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text != strconv.FormatUint(n, 10) {
		return 0
	}
	return uint16(n)
}

// canonical returns a host name in the form in which browsers send it, lower case and punycode, after "*." if it stands
// for all names below it; or an IPv4 address as it is. The error lacks path and line.
func canonical(entry string) (string, *Error) {
	rest, wildcard := strings.CutPrefix(entry, "*.")
	fail := func(remedy string) (string, *Error) {
		return "", &Error{Text: excerpt(entry) + " is not a host name", Remedy: remedy}
	}
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is4() {
		return addr.String(), nil
	}
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is6() && addr.Zone() == "" && !addr.Is4In6() {
		return fail("write an IPv6 address in brackets: [" + addr.String() + "]")
	}
	switch {
	case strings.ContainsAny(rest, `\^$()[]|+?`):
		return "", &Error{Text: excerpt(entry) + " is a pattern, not a host name",
			Remedy: "write a name, such as bank.example, or *.bank.example for all names below it"}
	case strings.ContainsAny(rest, "/:@"):
		return fail("write the host name alone, or HOST:PORT, without scheme or path")
	case strings.Contains(rest, "*"), strings.HasPrefix(rest, "."):
		base := strings.TrimLeft(rest, "*.")
		if strings.Contains(base, "*") || base == "" {
			return fail("write *.example.com for all names below example.com: a '*' is for all that is in front of a name")
		}
		return fail(fmt.Sprintf("write *.%s for all names below %[1]s, %[1]s for that host, or both", terminal.Quote(base)))
	}
	name, err := idn.ToASCII(rest)
	if err != nil {
		return fail("look at its spelling: no such international name can be")
	}
	// example.com. with the dot is the same name to DNS; what is compiled from it covers both.
	name = strings.TrimSuffix(name, ".")
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if !label.MatchString(l) {
			return fail("labels are up to 63 letters, digits, '-' or '_', and do not begin or end with '-'")
		}
	}
	if len(name) > 253 {
		return fail("a name has at most 253 characters")
	}
	if numeric.MatchString(labels[len(labels)-1]) {
		return fail("an address is four numbers from 0 to 255, as in 192.0.2.1, and has no names below it")
	}
	if wildcard {
		name = "*." + name
	}
	return name, nil
}

// compile translates a canonical name into lines that match this host, or the hosts below it, and no other.
// What they are compared with is whatever the AppVM sent, so they must not be fooled by upper case, by the
// dot that may end a name, or by what only looks like a name: "203.0.113.9<TAB>.example.com" is an address to
// the resolver of glibc before 2.29 (CVE-2016-10739).
func (s Syntax) compile(name string) []string {
	if _, err := netip.ParseAddr(name); err == nil { // which has one way of writing it
		if s.Language == Fnmatch {
			return []string{name}
		}
		return []string{"^" + strings.ReplaceAll(name, ".", `\.`) + "$"}
	}
	host, wildcard := strings.CutPrefix(name, "*.")
	if s.CaseSensitive || s.Language == Fnmatch {
		host = anyCase(host)
	}
	if s.Language == Fnmatch {
		// fnmatch has no repetition: what stands for '*' cannot be limited to the characters of names, and
		// the dot at the end needs a line of its own.
		if wildcard {
			host = "?*." + host
		}
		return []string{host, host + "."}
	}
	begin, end := "^", `\.\{0,1\}$`
	if s.Language == Extended {
		end = `\.?$`
	}
	switch {
	case wildcard && s.Language == Extended:
		begin = `^([a-zA-Z0-9_-]+\.)+` // no empty label
	case wildcard:
		begin = `^[-_0-9A-Za-z][-_.0-9A-Za-z]*\.`
	}
	return []string{begin + strings.ReplaceAll(host, ".", `\.`) + end}
}

// anyCase makes every letter match in both cases: "a1" becomes "[aA]1".
func anyCase(host string) string {
	var b strings.Builder
	for _, c := range []byte(host) {
		if 'a' <= c && c <= 'z' {
			b.Write([]byte{'[', c, c - 'a' + 'A', ']'})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
