// Package hostname says what a host name is, how browsers send it, and below which names anybody can have one.
//
// Concurrency: its functions may be called from any goroutine.
package hostname

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"vifproxy/internal/terminal"
	"vifproxy/rules/flaws"
)

// Longest is how many characters a host name may have (RFC 1035, 2.3.4).
const Longest = 253

// label matches a label of a host name as in RFC 1123, or with the underscore, which DNS knows and some sites use. None of these
// characters is special in a POSIX regex or in fnmatch, but for the '-' within brackets.
var label = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?$`)

// numeric matches a number. To browsers and resolvers, a name whose last label is a number is an address ("ends in a number" in
// the URL standard), in more notations than one pattern could cover: 127.1, 0x7f000001.
var numeric = regexp.MustCompile(`^([0-9]+|0x[0-9a-f]*)$`)

// idn does what browsers do with a name that a person types (the URL standard's "domain to ASCII"): it maps case and width, and
// writes punycode. label checks the characters.
var idn = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false),
	idna.CheckHyphens(false), idna.CheckJoiners(true), idna.BidiRule())

// Canonical returns a host name as browsers send it, in lower case and punycode, or an IPv4 address as it is. A "*." at the
// beginning stays.
func Canonical(entry string) (string, *flaws.Flaw) {
	rest, wildcard := strings.CutPrefix(entry, "*.")
	fail := func(remedy string) (string, *flaws.Flaw) {
		return "", &flaws.Flaw{Text: flaws.Excerpt(entry) + " is not a host name", Remedy: remedy}
	}
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is4() {
		return addr.String(), nil
	}
	if addr, err := netip.ParseAddr(entry); err == nil && addr.Is6() && addr.Zone() == "" && !addr.Is4In6() {
		return fail("write an IPv6 address in brackets: [" + addr.String() + "]")
	}
	if _, err := netip.ParsePrefix(entry); err == nil {
		return fail("name the hosts in it: a network is no host")
	}
	switch {
	case !utf8.ValidString(rest), strings.ContainsRune(rest, utf8.RuneError): // what is written for a character that could not be read
		return fail("save or type it as UTF-8: it has a character that is none")
	case strings.ContainsAny(rest, `\^$()[]|+?`):
		return "", &flaws.Flaw{Text: flaws.Excerpt(entry) + " is a pattern, not a host name",
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
	for _, r := range rest {
		if unicode.In(r, unicode.Pi, unicode.Pf, dashes) { // the mapping takes them, and no registry does
			return fail(strange(rest))
		}
	}
	name, err := idn.ToASCII(rest)
	if err != nil {
		return fail(cmp.Or(strange(rest), "look at its spelling: no such international name can be"))
	}
	// example.com. with the dot is the same name to DNS. Lines that are compiled from it match both.
	name = strings.TrimSuffix(name, ".")
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" && name != "" {
			return fail("write one '.' between labels, and none in front of the name")
		}
		if !label.MatchString(l) {
			return fail(cmp.Or(strange(rest), "labels are up to 63 letters, digits, '-' or '_', and do not begin or end with '-'"))
		}
	}
	if len(name) > Longest {
		return fail("a name has at most 253 characters")
	}
	if numeric.MatchString(labels[len(labels)-1]) {
		return fail("an address is four numbers from 0 to 255 without leading zeros, as in 192.0.2.1, and has no names below it")
	}
	if wildcard {
		name = "*." + name
	}
	return name, nil
}

// dashes look like the '-' that a program for texts has replaced by them.
var dashes = &unicode.RangeTable{R16: []unicode.Range16{{Lo: 0x2010, Hi: 0x2015, Stride: 1}, {Lo: 0x2212, Hi: 0x2212, Stride: 1}}, LatinOffset: 0}

// strange says of a text that is no host name which character has to go; "" if there is none. Such characters come with what was pasted:
// quotation marks, dashes, blanks that do not break a line. What is in words of some script, and full stops of other scripts, may stay.
func strange(text string) string {
	for _, r := range text {
		if unicode.In(r, dashes) {
			return "write '-' in the place of " + strconv.QuoteRune(r)
		}
		if !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.Cf) && !strings.ContainsRune("-_.。．｡", r) {
			return "remove the character " + strconv.QuoteRune(r) + ", which no host name has"
		}
	}
	return ""
}
