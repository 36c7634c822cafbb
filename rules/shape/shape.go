// Package shape reads what the text of a pattern tells at sight, and what its author meant. It decides nothing: package expression does.
//
// Concurrency: a [Shape] is a value; all functions may be called from any goroutine.
package shape

import (
	"slices"
	"strings"

	"vifproxy/rules/expression"
	"vifproxy/rules/hostname"
)

// A Shape is what the text of a pattern tells at sight. Most patterns are a host name with some of its dots escaped, and anchors;
// about any other a Shape says little. It serves to find mistakes and what was meant, and decides nothing.
type Shape struct {
	Text   string
	Tokens []Token // without anchors, and without the ".*" next to them
	Start  bool    // the name begins where the tokens do
	End    bool    // the name ends where the tokens do
	Below  bool    // it stands for the hosts below Domain: the first Token is a dot
	Dots   []Token // that match any character
	Plain  []Token // that only look like operators: a basic expression has no "|"
	Odd    bool    // it contains more than names, dots, anchors and ".*"
	Domain string  // as it was written, without escapes; "" if the tokens are no name
}

// A Token is a part of a pattern that matches one character, or any number of them: of all, or of those in host names.
type Token struct {
	Kind     byte // a literal byte 'c', any character '.', any number of them '*', something else '?'
	C        byte
	Pos, Len int
}

const (
	literal    = 'c'
	AnyOne     = '.'
	anyNumber  = '*'
	otherToken = '?'
)

// Of returns the shape of a pattern.
func Of(l expression.Language, text string) Shape {
	s := Shape{Text: text}
	body, offset := text, 0
	if l == expression.Fnmatch {
		s.Start, s.End = true, true
	} else {
		if rest, ok := strings.CutPrefix(body, "^"); ok {
			body, offset, s.Start = rest, 1, true
		}
		if rest, ok := strings.CutSuffix(body, "$"); ok && backslashes(rest)%2 == 0 {
			body, s.End = rest, true
		}
	}
	for i := 0; i < len(body); {
		t := next(l, body[i:])
		t.Pos = offset + i
		i += t.Len
		s.Tokens = append(s.Tokens, t)
	}
	if n := len(s.Tokens); n > 0 && s.Tokens[0].Kind == anyNumber {
		s.Tokens, s.Start = s.Tokens[1:], false
	}
	if n := len(s.Tokens); n > 0 && s.Tokens[n-1].Kind == anyNumber {
		s.Tokens, s.End = s.Tokens[:n-1], false
	}
	var name strings.Builder
	for _, t := range s.Tokens {
		switch {
		case t.Kind == AnyOne:
			s.Dots = append(s.Dots, t)
			name.WriteByte('.')
			continue
		case t.Kind != literal:
			s.Odd = true
		case l == expression.Basic && strings.IndexByte("(){}|+?", t.C) >= 0 && t.Len == 1:
			s.Plain = append(s.Plain, t)
		}
		name.WriteByte(t.C)
	}
	domain := name.String()
	if !s.Start && strings.HasPrefix(domain, ".") {
		s.Below, domain = true, domain[1:]
	}
	if canon, flaw := hostname.Canonical(domain); !s.Odd && flaw == nil && canon == strings.ToLower(domain) {
		s.Domain = domain
	}
	return s
}

func backslashes(s string) int { return len(s) - len(strings.TrimRight(s, `\`)) }

// next reads the token at the beginning of a pattern.
func next(l expression.Language, s string) Token {
	t := Token{Kind: literal, C: s[0], Len: 1}
	switch c := s[0]; {
	case l == expression.Fnmatch && c == '*':
		t.Kind = anyNumber
	case l != expression.Fnmatch && strings.HasPrefix(s, ".*"):
		t.Kind, t.Len = anyNumber, 2
	case l != expression.Fnmatch && strings.HasPrefix(s, expression.HostClass+"*"):
		t.Kind, t.Len = anyNumber, len(expression.HostClass)+1
	case l == expression.Fnmatch && c == '?', l != expression.Fnmatch && c == '.':
		t.Kind = AnyOne
	case c == '\\' && len(s) > 1 && strings.IndexByte(".-_/:", s[1]) >= 0:
		t.C, t.Len = s[1], 2
	case c == '[' && len(s) > 2 && s[2] == ']' && s[1] != '^' && s[1] != '!':
		t.C, t.Len = s[1], 3
	case c == '[':
		t.Kind, t.Len = otherToken, bracket(s)
	case c == '\\':
		t.Kind, t.Len = otherToken, min(2, len(s))
	case l != expression.Fnmatch && strings.IndexByte("^$*", c) >= 0, l == expression.Extended && strings.IndexByte("(){}|+?", c) >= 0:
		t.Kind = otherToken
	}
	if l != expression.Fnmatch && t.Kind != anyNumber && len(s) > t.Len &&
		(s[t.Len] == '*' || l == expression.Extended && strings.IndexByte("+?{", s[t.Len]) >= 0) {
		t.Kind = otherToken // what follows repeats it
	}
	return t
}

// bracket returns how many bytes of s belong to the bracket expression at its beginning.
func bracket(s string) int {
	i := 1
	if i < len(s) && (s[i] == '^' || s[i] == '!') {
		i++
	}
	if i < len(s) && s[i] == ']' {
		i++
	}
	for i < len(s) && s[i] != ']' {
		if i+1 < len(s) && s[i] == '[' && strings.IndexByte(":.=", s[i+1]) >= 0 {
			if n := strings.Index(s[i+2:], s[i+1:i+2]+"]"); n >= 0 {
				i += n + 3
			}
		}
		i++
	}
	return min(i+1, len(s))
}

// Branches splits an extended pattern at each "|" that is outside of all parentheses.
func Branches(l expression.Language, text string) (all []string) {
	depth, from := 0, 0
	for i := 0; i < len(text); {
		t := next(l, text[i:])
		if l == expression.Extended && t.Kind == otherToken && t.Len == 1 {
			switch t.C {
			case '(':
				depth++
			case ')':
				depth--
			case '|':
				if depth == 0 {
					all, from = append(all, text[from:i]), i+1
				}
			}
		}
		i += t.Len
	}
	return append(all, text[from:])
}

// Meant returns the lines that say what the author of a pattern with a mistake meant, if that is clear. They permit hosts that the
// pattern permits, and no others. If the beginning is open, the author may have meant the host or the hosts below it, so there is a
// line for each.
func (s Shape) Meant(l expression.Language) []string {
	switch {
	case s.Domain == "" || !strings.Contains(s.Domain, "."):
		return nil
	case (!s.End || !s.Start && !s.Below) && !hostname.Registrable(s.Domain):
		return nil // "^www\.google", "cdn\.": what should follow?
	case s.Below:
		return []string{l.LineFor(s.Domain, true)}
	case s.Start:
		return []string{l.LineFor(s.Domain, false)}
	}
	return []string{l.LineFor(s.Domain, false), l.LineFor(s.Domain, true)}
}

// Exact reports whether a pattern stands for one name, or for the names below one, and for nothing else.
func (s Shape) Exact() bool {
	return s.Domain != "" && s.End && (s.Start || s.Below) && len(s.Dots) == 0 && len(s.Plain) == 0
}

// Example returns a host that a pattern admits although its author hardly meant it; "" if none is known.
func (s Shape) Example() string {
	if s.Domain == "" || slices.ContainsFunc(s.Tokens, func(t Token) bool { return t.Kind == anyNumber }) {
		return ""
	}
	host := s.Domain
	skip := 0
	if s.Below {
		host, skip = "."+host, 1
	}
	wide := len(s.Dots) > 0
	if wide {
		b := []byte(host)
		for i, t := range s.Tokens {
			if t.Kind == AnyOne && (i >= skip || len(s.Dots) == 1) {
				b[i] = 'x'
				break
			}
		}
		host = string(b)
	}
	switch {
	case s.Below:
		host = "evil" + host
	case !s.Start:
		host = "evil-" + host
	}
	if !s.End {
		host += ".evil.example"
	}
	return host
}

// LooksLikePattern reports whether a text has characters of regular expressions that no host name has.
func LooksLikePattern(text string) bool { return strings.ContainsAny(text, `\^$()[]{}|+?`) }
