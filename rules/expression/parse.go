package expression

import (
	"fmt"
	"strconv"
	"strings"

	"vifproxy/rules/flaws"
)

// A parser reads patterns as the GNU C library does (regcomp in posix/regcomp.c of glibc 2.36, in the C locale). It refuses
// constructs that few people know.
type parser struct {
	text     string
	language Language
	fold     bool // both cases are the same
	pos      int
	depth    int // of parentheses
	odd      int // see Compiled
}

// newParser returns a parser. tinyproxy asks fnmatch(3) to distinguish case, with or without FilterCaseSensitive.
func newParser(text string, l Language, caseSensitive bool) parser {
	return parser{text: text, language: l, fold: !caseSensitive && l != Fnmatch}
}

func (p *parser) fail(pos int, what, remedy string) *flaws.Flaw {
	return &flaws.Flaw{Col: pos + 1, Text: flaws.Excerpt(p.text) + " " + what, Remedy: remedy}
}

// parse reads all of the text.
func (p *parser) parse() (Expression, *flaws.Flaw) {
	if p.language == Fnmatch {
		return p.glob()
	}
	e, flaw := p.alternatives()
	if flaw == nil && p.pos < len(p.text) {
		flaw = p.fail(p.pos, "closes a parenthesis that is not open", `write \. \( and the like as regex(7) has them`)
	}
	return e, flaw
}

// operator returns the operator at the position, as extended expressions write it, and its length. A backslash makes a character
// an operator in basic expressions, and an ordinary character in extended ones.
func (p *parser) operator() (op byte, length int) {
	rest := p.text[p.pos:]
	switch {
	case rest == "":
		return 0, 0
	case rest[0] == '*':
		return '*', 1
	case p.language == Basic && len(rest) > 1 && rest[0] == '\\' && strings.IndexByte("(){|+?", rest[1]) >= 0:
		return rest[1], 2
	case p.language == Extended && strings.IndexByte("(){|+?", rest[0]) >= 0:
		return rest[0], 1
	}
	return 0, 0
}

func (p *parser) alternatives() (e Expression, flaw *flaws.Flaw) {
	for {
		b, flaw := p.branch()
		if flaw != nil {
			return nil, flaw
		}
		e = append(e, b)
		op, n := p.operator()
		if op != '|' {
			return e, nil
		}
		p.pos += n
	}
}

func (p *parser) branch() (b Branch, flaw *flaws.Flaw) {
	for p.pos < len(p.text) {
		op, n := p.operator()
		if op == '|' || op == ')' && (p.depth > 0 || p.language == Basic) {
			return b, nil
		}
		// At the beginning, and behind an assertion, there is nothing to repeat.
		first := len(b) == 0 || b[len(b)-1].Assertion != ""
		if strings.IndexByte("*+?{", op) >= 0 && first && (p.language == Extended || op == '{') {
			return nil, p.fail(p.pos, "repeats nothing", `write .* for any number of characters, \. for a dot`)
		}
		one := Piece{Min: 1, Max: 1, pos: p.pos}
		switch {
		case op == '(':
			p.pos += n
			p.depth++
			group, flaw := p.alternatives()
			if flaw != nil {
				return nil, flaw
			}
			if op, n = p.operator(); op != ')' {
				return nil, p.fail(one.pos, "opens a parenthesis that nothing closes", "close it, or remove it")
			}
			p.pos += n
			p.depth--
			one.Group = &group
		case op != 0: // an operator with nothing to do is a character like any other
			p.character(&one, p.text[p.pos+n-1], n)
		default:
			if flaw := p.atom(&one, len(b) == 0); flaw != nil {
				return nil, flaw
			}
		}
		if one.Assertion == "" {
			if one, flaw = p.repeated(one); flaw != nil {
				return nil, flaw
			}
		}
		b = append(b, one)
	}
	return b, nil
}

// repeated reads the operators behind a piece.
func (p *parser) repeated(one Piece) (Piece, *flaws.Flaw) {
	for {
		at := p.pos
		op, n := p.operator()
		least, most := 0, -1
		switch op {
		case '*':
		case '+':
			least = 1
		case '?':
			most = 1
		case '{':
			var flaw *flaws.Flaw
			if least, most, n, flaw = p.braces(n); flaw != nil {
				return one, flaw
			}
		default:
			return one, nil
		}
		twice := one.Min != 1 || one.Max != 1
		if twice && p.language == Basic && (op == '*' || op == '{') {
			return one, p.fail(p.pos, "repeats what is repeated already", "keep one of the two")
		}
		p.pos += n
		if twice {
			one = Piece{Group: &Expression{Branch{one}}, pos: at}
		}
		one.Min, one.Max = least, most
	}
}

// braces reads {M}, {M,}, {,N} and {M,N}; opening is the length of the brace.
func (p *parser) braces(opening int) (least, most, length int, flaw *flaws.Flaw) {
	fail := func(what string) (int, int, int, *flaws.Flaw) {
		return 0, 0, 0, p.fail(p.pos, what, fmt.Sprintf("write {M,N} with numbers up to %d", repeatMax))
	}
	closing := map[Language]string{Basic: `\}`, Extended: "}"}[p.language]
	inner, _, closed := strings.Cut(p.text[p.pos+opening:], closing)
	if !closed {
		return fail("opens a brace that nothing closes")
	}
	low, high, ranged := strings.Cut(inner, ",")
	if !ranged {
		high = low
	}
	number := func(digits string, otherwise int) (int, bool) {
		if digits == "" && ranged {
			return otherwise, true
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		return int(n), err == nil && n <= repeatMax
	}
	least, ok := number(low, 0)
	most, ok2 := number(high, -1)
	if !ok || !ok2 || most >= 0 && least > most {
		return fail("has no numbers that make sense in its braces")
	}
	return least, most, opening + len(inner) + len(closing), nil
}

// atom reads a piece that is no operator. At the beginning of a branch a '^' is an anchor in basic expressions too.
func (p *parser) atom(one *Piece, first bool) *flaws.Flaw {
	rest := p.text[p.pos:]
	switch c := rest[0]; {
	case c == '^' && (first || p.language == Extended), c == '$' && (p.language == Extended || p.last()):
		one.Assertion = rest[:1]
		p.pos++
	case c == '.':
		p.any(one)
	case c == '[':
		return p.bracket(one)
	case c == '\\' && len(rest) == 1:
		return p.fail(p.pos, "ends with a backslash", `write \\ for the character itself`)
	case c == '\\' && '1' <= rest[1] && rest[1] <= '9':
		return p.fail(p.pos, "refers back to what a parenthesis matched", "write a line for each")
	case c == '\\' && strings.IndexByte("bB<>`'", rest[1]) >= 0:
		one.Assertion = rest[:2]
		p.pos += 2
	case c == '\\' && strings.IndexByte("wWsS", rest[1]) >= 0:
		one.Set = charsetOf(func(c byte) bool {
			word, space := isLower(c) || isUpper(c) || isDigit(c) || c == '_', strings.IndexByte(" \t\n\v\f\r", c) >= 0
			return map[byte]bool{'w': word, 'W': !word, 's': space, 'S': !space}[rest[1]]
		})
		p.pos += 2
	case c == '\\' && p.fold && isLower(rest[1]):
		// It matches nothing: to ignore case, the C library turns all it reads into upper case, but not a letter behind a
		// backslash (peek_token in posix/regcomp.c of glibc 2.36, findings/regcomp-escaped-letter-ignoring-case.sh).
		if p.odd == 0 {
			p.odd = p.pos + 1
		}
		p.pos += 2
	case c == '\\':
		p.character(one, rest[1], 2)
	default:
		p.character(one, c, 1)
	}
	return nil
}

// last reports whether a '$' at the position ends a branch of a basic expression.
func (p *parser) last() bool {
	rest := p.text[p.pos+1:]
	return rest == "" || strings.HasPrefix(rest, `\)`) || strings.HasPrefix(rest, `\|`)
}

var anything = charsetOf(func(c byte) bool { return c != 0 })

func (p *parser) any(one *Piece) {
	one.Set = anything
	p.pos++
}

// character reads a literal character that is written in n bytes.
func (p *parser) character(one *Piece, c byte, n int) {
	one.literal = c
	one.Set.add(c)
	if p.fold {
		one.Set.add(upper(c))
		one.Set.add(lower(c))
	}
	if !hostChars.Has(c) && p.odd == 0 {
		p.odd = p.pos + 1
	}
	p.pos += n
}

func upper(c byte) byte {
	if isLower(c) {
		return c - 'a' + 'A'
	}
	return c
}

func lower(c byte) byte {
	if isUpper(c) {
		return c - 'A' + 'a'
	}
	return c
}

// classes are the names in [:name:] that have host characters in them, and those that have none.
var classes = map[string]func(c byte) bool{
	"lower": isLower, "upper": isUpper, "digit": isDigit,
	"alpha":  func(c byte) bool { return isLower(c) || isUpper(c) },
	"alnum":  func(c byte) bool { return isLower(c) || isUpper(c) || isDigit(c) },
	"xdigit": func(c byte) bool { return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'f' },
	"punct":  func(c byte) bool { return '!' <= c && c <= '~' && !isLower(c) && !isUpper(c) && !isDigit(c) },
	"graph":  func(c byte) bool { return '!' <= c && c <= '~' },
	"print":  func(c byte) bool { return ' ' <= c && c <= '~' },
	"space":  func(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' },
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
}

// bracket reads a bracket expression.
func (p *parser) bracket(one *Piece) *flaws.Flaw {
	start := p.pos
	glob := p.language == Fnmatch
	open := p.fail(start, "opens a bracket that nothing closes", `close it, or write \[`)
	rest := p.text[p.pos+1:]
	negated := strings.HasPrefix(rest, "^") || glob && strings.HasPrefix(rest, "!")
	if negated {
		rest = rest[1:]
	}
	var set Charset
	for first := true; ; first = false {
		if rest == "" {
			return open
		}
		if rest[0] == ']' && !first {
			rest = rest[1:]
			break
		}
		if strings.HasPrefix(rest, "[:") {
			name, after, closed := strings.Cut(rest[2:], ":]")
			class, known := classes[name]
			if !closed || !known {
				return p.fail(start, "has an unknown class in its brackets", "write [:alnum:], [:alpha:] or [:digit:]")
			}
			if p.fold && (name == "lower" || name == "upper") {
				class = classes["alpha"] // as build_charclass does under RE_ICASE
			}
			for i, word := range charsetOf(class) {
				set[i] |= word
			}
			rest = after
			continue
		}
		from, after, flaw := p.element(rest, start)
		if flaw != nil {
			return flaw
		}
		rest = after
		to := from
		if len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
			if to, rest, flaw = p.element(rest[1:], start); flaw != nil {
				return flaw
			}
		}
		if p.fold { // regcomp sees the whole pattern in upper case
			from, to = upper(from), upper(to)
		}
		if from > to {
			return p.fail(start, "has a range that ends before it begins", "write the lower end first")
		}
		for c := int(from); c <= int(to); c++ {
			set.add(byte(c))
		}
	}
	one.Set = charsetOf(func(c byte) bool {
		in := set.Has(c)
		if p.fold {
			in = set.Has(upper(c))
		}
		return c != 0 && in != negated
	})
	p.pos = len(p.text) - len(rest)
	return nil
}

// element reads one character in brackets.
func (p *parser) element(rest string, start int) (c byte, after string, flaw *flaws.Flaw) {
	if strings.HasPrefix(rest, "[.") || strings.HasPrefix(rest, "[=") {
		kind := rest[1:2] + "]"
		if inner, after, closed := strings.Cut(rest[2:], kind); closed && len(inner) == 1 {
			return inner[0], after, nil
		}
		return 0, "", p.fail(start, "names a collating element in its brackets", "write the characters themselves")
	}
	if p.language == Fnmatch && len(rest) > 1 && rest[0] == '\\' {
		rest = rest[1:]
	}
	return rest[0], rest[1:], nil
}

// glob reads an fnmatch(3) pattern, as the expression that matches the same.
func (p *parser) glob() (Expression, *flaws.Flaw) {
	b := Branch{{Assertion: "^"}}
	for p.pos < len(p.text) {
		one := Piece{Min: 1, Max: 1, pos: p.pos}
		switch rest := p.text[p.pos:]; {
		case rest[0] == '*':
			p.any(&one)
			one.Min, one.Max = 0, -1
		case rest[0] == '?':
			p.any(&one)
		case rest[0] == '[':
			if flaw := p.bracket(&one); flaw != nil {
				return nil, flaw
			}
		case rest == `\`:
			return nil, p.fail(p.pos, "ends with a backslash", `write \\ for the character itself`)
		case rest[0] == '\\':
			p.character(&one, rest[1], 2)
		default:
			p.character(&one, rest[0], 1)
		}
		b = append(b, one)
	}
	return Expression{append(b, Piece{Assertion: "$"})}, nil
}
