package rules

import (
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// A shape is what can be said of a pattern from its text. Most patterns that people write are a host name with some of
// its dots escaped, and anchors; of any other there is little to say. Nothing is decided with it: that is
// tinyproxy's business. It finds mistakes, and what was meant.
type shape struct {
	text   string
	tokens []token // without anchors, and without the ".*" that stand next to them
	start  bool    // the name begins where the tokens do
	end    bool    // the name ends where the tokens do
	below  bool    // it stands for the hosts below domain: the first token is a dot
	dots   []token // that match any character
	plain  []token // that only look like operators: a basic expression has no "|"
	odd    bool    // there is more in it than names, dots, anchors and ".*"
	domain string  // as it was written, without escapes; "" if the tokens are no name
}

// A token is a part of a pattern that matches one character, or any number of them: of all, or of those in host names.
type token struct {
	kind     byte // a literal byte 'c', any character '.', any number of them '*', something else '?'
	c        byte
	pos, len int
}

const (
	literal   = 'c'
	anyOne    = '.'
	anyNumber = '*'
	other     = '?'
)

func (l Language) shapeOf(text string) shape {
	s := shape{text: text}
	body, offset := text, 0
	if l == Fnmatch {
		s.start, s.end = true, true
	} else {
		if rest, ok := strings.CutPrefix(body, "^"); ok {
			body, offset, s.start = rest, 1, true
		}
		if rest, ok := strings.CutSuffix(body, "$"); ok && backslashes(rest)%2 == 0 {
			body, s.end = rest, true
		}
	}
	for i := 0; i < len(body); {
		t := l.next(body[i:])
		t.pos = offset + i
		i += t.len
		s.tokens = append(s.tokens, t)
	}
	if n := len(s.tokens); n > 0 && s.tokens[0].kind == anyNumber {
		s.tokens, s.start = s.tokens[1:], false
	}
	if n := len(s.tokens); n > 0 && s.tokens[n-1].kind == anyNumber {
		s.tokens, s.end = s.tokens[:n-1], false
	}
	var name strings.Builder
	for _, t := range s.tokens {
		switch {
		case t.kind == anyOne:
			s.dots = append(s.dots, t)
			name.WriteByte('.')
			continue
		case t.kind != literal:
			s.odd = true
		case l == Basic && strings.IndexByte("(){}|+?", t.c) >= 0 && t.len == 1:
			s.plain = append(s.plain, t)
		}
		name.WriteByte(t.c)
	}
	domain := name.String()
	if !s.start && strings.HasPrefix(domain, ".") {
		s.below, domain = true, domain[1:]
	}
	if canon, err := canonical(domain); !s.odd && err == nil && canon == strings.ToLower(domain) {
		s.domain = domain
	}
	return s
}

func backslashes(s string) int { return len(s) - len(strings.TrimRight(s, `\`)) }

// next reads the token at the beginning of a pattern.
func (l Language) next(s string) token {
	t := token{kind: literal, c: s[0], len: 1}
	switch c := s[0]; {
	case l == Fnmatch && c == '*':
		t.kind = anyNumber
	case l != Fnmatch && strings.HasPrefix(s, ".*"):
		t.kind, t.len = anyNumber, 2
	case l != Fnmatch && strings.HasPrefix(s, hostClass+"*"):
		t.kind, t.len = anyNumber, len(hostClass)+1
	case l == Fnmatch && c == '?', l != Fnmatch && c == '.':
		t.kind = anyOne
	case c == '\\' && len(s) > 1 && strings.IndexByte(".-_/:", s[1]) >= 0:
		t.c, t.len = s[1], 2
	case c == '[' && len(s) > 2 && s[2] == ']' && s[1] != '^' && s[1] != '!':
		t.c, t.len = s[1], 3
	case c == '[':
		t.kind, t.len = other, bracket(s)
	case c == '\\':
		t.kind, t.len = other, min(2, len(s))
	case l != Fnmatch && strings.IndexByte("^$*", c) >= 0, l == Extended && strings.IndexByte("(){}|+?", c) >= 0:
		t.kind = other
	}
	if l != Fnmatch && t.kind != anyNumber && len(s) > t.len &&
		(s[t.len] == '*' || l == Extended && strings.IndexByte("+?{", s[t.len]) >= 0) {
		t.kind = other // what follows repeats it
	}
	return t
}

// bracket is how many bytes of s belong to the bracket expression that it begins with.
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

// branches splits an extended pattern at each "|" that is outside of all parentheses.
func (l Language) branches(text string) (all []string) {
	depth, from := 0, 0
	for i := 0; i < len(text); {
		t := l.next(text[i:])
		if l == Extended && t.kind == other && t.len == 1 {
			switch t.c {
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
		i += t.len
	}
	return append(all, text[from:])
}

// name is the line for one host, or for all hosts below it.
func (l Language) name(domain string, below bool) string {
	switch {
	case l == Fnmatch && below:
		return "*." + domain
	case l == Fnmatch:
		return domain
	case below:
		return "^" + hostClass + `*\.` + strings.ReplaceAll(domain, ".", `\.`) + "$"
	}
	return "^" + strings.ReplaceAll(domain, ".", `\.`) + "$"
}

// meant is the lines that say what the author of a pattern with a mistake in it meant, if that is clear: hosts that
// the pattern itself permits, and no others. A beginning that is left open may stand for the host or for
// those below it, so both stay.
func (s shape) meant(l Language) []string {
	switch {
	case s.domain == "" || !strings.Contains(s.domain, "."):
		return nil
	case (!s.end || !s.start && !s.below) && !registrable(s.domain):
		return nil // "^www\.google", "cdn\.": what shall follow?
	case s.below:
		return []string{l.name(s.domain, true)}
	case s.start:
		return []string{l.name(s.domain, false)}
	}
	return []string{l.name(s.domain, false), l.name(s.domain, true)}
}

// exact tells whether a pattern is one name, or the names below one, and nothing else.
func (s shape) exact() bool {
	return s.domain != "" && s.end && (s.start || s.below) && len(s.dots) == 0 && len(s.plain) == 0
}

// registrable tells whether a name is, or is below, what somebody can own according to the public suffix list.
func registrable(domain string) bool {
	suffix, known := publicSuffix(domain)
	return known && suffix != strings.ToLower(domain)
}

// publicSuffix returns the part of a name below which anybody can have a name, and whether the list has it.
func publicSuffix(domain string) (suffix string, known bool) {
	if _, err := netip.ParseAddr(domain); err == nil {
		return "", false
	}
	suffix, icann := publicsuffix.PublicSuffix(strings.ToLower(domain))
	return suffix, icann || strings.Contains(suffix, ".")
}

// tooWide tells whether all hosts below domain belong to too many for a white list.
func tooWide(domain string) bool {
	suffix, known := publicSuffix(domain)
	return known && suffix == strings.ToLower(domain)
}

// example is a host that a pattern admits although its author hardly meant it; "" if none is known.
func (s shape) example() string {
	if s.domain == "" || slices.ContainsFunc(s.tokens, func(t token) bool { return t.kind == anyNumber }) {
		return ""
	}
	host := s.domain
	skip := 0
	if s.below {
		host, skip = "."+host, 1
	}
	wide := len(s.dots) > 0
	if wide {
		b := []byte(host)
		for i, t := range s.tokens {
			if t.kind == anyOne && (i >= skip || len(s.dots) == 1) {
				b[i] = 'x'
				break
			}
		}
		host = string(b)
	}
	switch {
	case s.below:
		host = "evil" + host
	case !s.start:
		host = "evil-" + host
	}
	if !s.end {
		host += ".evil.example"
	}
	return host
}
