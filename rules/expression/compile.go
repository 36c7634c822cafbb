// Package expression reads patterns as tinyproxy's C library does: basic and extended regular expressions, and fnmatch(3).
// [Compile] turns one into an extended expression that matches host names only. [Parse] returns its tree, of which package
// rules/match makes an automaton. [Language.ShapeOf] says what its author can have meant, and decides nothing.
//
// Concurrency: its functions may be called from any goroutine.
package expression

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/rules/flaws"
)

// Why and how lines of a white list are compiled:
//
// tinyproxy compares a line with all that is between "//" and "/" in a request, without user and port (extract_url in src/reqs.c
// of 1.11). That may contain any byte but a blank, a newline, a slash and NUL. An Upstream gets it as it is, and may read another
// host in it. So Compile narrows each part that matches a character to the characters of host names, and writes out what is open
// at the ends. The compiled expression matches strings of these characters only, and of those exactly what the line matched.

// A Language is a kind of pattern that tinyproxy can take a filter line for.
type Language int

const (
	Basic    Language = iota // POSIX basic regular expressions: tinyproxy's default, or FilterType bre
	Extended                 // FilterExtended, or FilterType ere
	Fnmatch                  // FilterType fnmatch
)

// languages are the words of tinyproxy's FilterType.
var languages = []string{Basic: "bre", Extended: "ere", Fnmatch: "fnmatch"}

// String returns the word that FilterType has for the language.
func (l Language) String() string { return languages[l] }

// ParseLanguage reads what String returns.
func ParseLanguage(text string) (l Language, ok bool) {
	i := slices.Index(languages, text)
	return Language(i), i >= 0
}

// HostClass is a bracket expression that matches the characters of host names.
const HostClass = "[a-zA-Z0-9._-]"

const (
	// LineMax is what tinyproxy reads of a line at once, in bytes (fgets of FILTER_BUFFER_LEN 512 in src/filter.c): the rest
	// would become a pattern of its own.
	LineMax = 511

	// repeatMax is the largest number in braces. POSIX guarantees 255 (RE_DUP_MAX).
	repeatMax = 255

	// weightMax bounds the characters of an expression with all repetitions written out, as the C library does in memory.
	weightMax = 4096
)

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// An Expression is a parsed pattern: branches, one of which has to match somewhere in the text.
type Expression []Branch

// A Branch is pieces that match one after the other.
type Branch []Piece

// A Piece is one of an assertion, an expression in parentheses, and a character. A character or a group may be repeated.
type Piece struct {
	Assertion string      // "^", "$", or one of those that GNU adds: \b \B \< \> \` \'
	Group     *Expression // in parentheses
	Set       Charset     // the characters that match; none, if the piece matches nothing
	Min, Max  int         // how often; Max < 0 is without end

	literal byte // the character as it is written, if it is one
	pos     int  // in the pattern, in bytes
}

// Parse reads a pattern. The flaw is about what tinyproxy's C library refuses, and about what few people know, such as a reference
// back to a parenthesis. An fnmatch(3) pattern is compared with regard to case always.
func Parse(text string, l Language, caseSensitive bool) (Expression, *flaws.Flaw) {
	p := newParser(text, l, caseSensitive)
	return p.parse()
}

// A Compiled pattern is what tinyproxy is given for it.
type Compiled struct {
	Text  string // an extended expression that matches host names only; "" if it matches none
	Exact bool   // the pattern as it is written matches nothing else either
	Odd   int    // column of the first character in the pattern that no host name has, from 1; 0 if there is none
}

// Compile compiles a line of a white list.
func Compile(text string, l Language, caseSensitive bool) (n Compiled, flaw *flaws.Flaw) {
	p := newParser(text, l, caseSensitive)
	e, flaw := p.parse()
	if flaw != nil {
		return n, flaw
	}
	if p.odd == 0 {
		p.odd = -1
	}
	n.Odd = max(p.odd, 0)
	if addr, err := netip.ParseAddr(e.address()); err == nil && addr.Is6() && addr.Zone() == "" {
		// The only host with colons is a whole IPv6 address, which tinyproxy compares without brackets.
		return Compiled{Text: "^" + strings.ReplaceAll(e.address(), ".", `\.`) + "$", Exact: true}, nil
	}
	if e.weight() > weightMax {
		return n, &flaws.Flaw{Text: flaws.Excerpt(text) + " repeats too much", Remedy: "write smaller numbers in braces"}
	}
	n.Exact = e.exact()
	var branches []string
	for _, b := range e {
		if text, ok := b.emit(p.fold, true); ok {
			branches = append(branches, text)
		}
	}
	n.Text = strings.Join(branches, "|")
	if len(n.Text) > LineMax {
		return n, &flaws.Flaw{
			Text: fmt.Sprintf("%s is too long: with the characters of host names in the place of what matches any, "+
				"it has %d bytes of at most %d", flaws.Excerpt(text), len(n.Text), LineMax),
			Remedy: `write dots as \., or make two lines of it`,
		}
	}
	return n, nil
}

// address returns the text that the expression stands for, if it matches exactly one.
func (e Expression) address() string {
	if len(e) != 1 || len(e[0]) < 3 || !e[0].begins() || !e[0].Ends() {
		return ""
	}
	var b strings.Builder
	for _, p := range e[0][1 : len(e[0])-1] {
		if p.literal == 0 || p.Min != 1 || p.Max != 1 {
			return ""
		}
		b.WriteByte(p.literal)
	}
	return b.String()
}

func (b Branch) begins() bool { return len(b) > 0 && b[0].Assertion == "^" }

// Ends reports whether the branch matches at the end of a text only, because '$' comes last.
func (b Branch) Ends() bool { return len(b) > 0 && b[len(b)-1].Assertion == "$" }

// exact reports whether the expression matches host names only, as it stands.
func (e Expression) exact() bool {
	for _, b := range e {
		if !b.begins() || !b.Ends() || !b.plain() {
			return false
		}
	}
	return true
}

// plain reports whether all characters that the branch matches are those of host names.
func (b Branch) plain() bool {
	for _, p := range b {
		if p.Group == nil && !p.Set.within(hostChars) {
			return false
		}
		if p.Group != nil {
			for _, inner := range *p.Group {
				if !inner.plain() {
					return false
				}
			}
		}
	}
	return true
}

// weight returns the number of characters of the expression with all repetitions written out.
func (e Expression) weight() (n int) {
	for _, b := range e {
		for _, p := range b {
			one := 1
			if p.Group != nil {
				one += p.Group.weight()
			}
			n = min(n+one*max(1, p.Min, p.Max), weightMax+1)
		}
	}
	return n
}

// emit returns the text of a branch that matches nothing but host names, and reports whether it can match at all. At the top it
// writes out open ends.
func (b Branch) emit(fold, top bool) (string, bool) {
	var text strings.Builder
	if top && !b.begins() {
		text.WriteString("^" + HostClass + "*")
	}
	for _, p := range b {
		one, ok := p.emit(fold)
		if !ok {
			return "", false
		}
		text.WriteString(one)
	}
	if top && !b.Ends() {
		text.WriteString(HostClass + "*$")
	}
	return text.String(), true
}

func (p Piece) emit(fold bool) (text string, possible bool) {
	switch {
	case p.Assertion != "":
		return p.Assertion, true
	case p.Group != nil:
		var branches []string
		for _, b := range *p.Group {
			if one, ok := b.emit(fold, false); ok {
				branches, possible = append(branches, one), true
			}
		}
		text = "(" + strings.Join(branches, "|") + ")"
	case p.literal != 0:
		text, possible = escape(p.literal), hostChars.Has(p.literal)
	default:
		text, possible = p.Set.emit(fold)
	}
	if !possible || p.Max == 0 {
		return "", p.Min == 0
	}
	return text + repetition(p.Min, p.Max), true
}

func escape(c byte) string {
	if c == '.' {
		return `\.`
	}
	return string(c)
}

func repetition(least, most int) string {
	switch {
	case least == 1 && most == 1:
		return ""
	case least == 0 && most < 0:
		return "*"
	case least == 1 && most < 0:
		return "+"
	case least == 0 && most == 1:
		return "?"
	case most < 0:
		return fmt.Sprintf("{%d,}", least)
	case least == most:
		return fmt.Sprintf("{%d}", least)
	}
	return fmt.Sprintf("{%d,%d}", least, most)
}

// emit returns the text for those characters of a set that host names have.
func (s Charset) emit(fold bool) (string, bool) {
	if hostChars.within(s) {
		return HostClass, true
	}
	var b strings.Builder
	n, last := 0, byte(0)
	for _, run := range []string{"az", "AZ", "09", "..", "__", "--"} { // a '-' has to come last
		if fold && run == "AZ" {
			continue // the same as those before
		}
		for c := int(run[0]); c <= int(run[1]); c++ {
			first := c
			for c <= int(run[1]) && s.Has(byte(c)) {
				n, last = n+1, byte(c)
				c++
			}
			switch length := c - first; {
			case length > 2:
				b.WriteString(string(rune(first)) + "-" + string(rune(c-1)))
			case length > 0:
				b.WriteString(string(rune(first)))
				if length == 2 {
					b.WriteString(string(rune(c - 1)))
				}
			}
		}
	}
	switch n {
	case 0:
		return "", false
	case 1:
		return escape(last), true
	}
	return "[" + b.String() + "]", true
}

// LineFor returns the line for one host, or for all hosts below it.
func (l Language) LineFor(domain string, below bool) string {
	switch {
	case l == Fnmatch && below:
		return "*." + domain
	case l == Fnmatch:
		return domain
	case below:
		return "^" + HostClass + `*\.` + strings.ReplaceAll(domain, ".", `\.`) + "$"
	}
	return "^" + strings.ReplaceAll(domain, ".", `\.`) + "$"
}
