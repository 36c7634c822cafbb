// Package randomlist makes random lists of each kind, and names that they may match, and asks a real tinyproxy about them. Only tests use
// it.
package randomlist

import (
	"math/rand/v2"
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest"
)

// A Kind of list, and parts of which its lines are made.
type Kind struct {
	Name     string
	language expression.Language
	names    bool
	parts    string
}

// Kinds has one for each language, and one for lists of names, which are compiled to any of these.
var Kinds = []Kind{
	{"domains", expression.Basic, true, `a b bank example com www. a. *. x-y xn--a`},
	{"basic", expression.Basic, false, `a b B bank example \. \. . - _ [ab] [^a] [^.] [B-D] [!-~] [[:alnum:]] [[:upper:]_] [^[:alpha:]] []a] .* ^ $ ` +
		`\(a\|b\) \(^a\) \(b$\|\) \( \) \| * \+ \? \{1,2\} \{0,\} \{,3\} \{0\} \b \B \w \W \s \S \< \> x % # | + ? ( ) { } \a \A é ~`},
	{"extended", expression.Extended, false, `a b B bank example \. \. . - _ [ab] [^a] [^.] [B-D] [!-~] [[:alnum:]] [[:lower:]_] [^[:punct:]] []a] ` +
		`.* ^ $ (a|b) (^|x) (b$|) ( ) | * + ? {1,2} {2,} {,3} {0} \b \B \w \W \s \S \< \> x % # (a*)+ (|a){2} \x \X é ~`},
	{"fnmatch", expression.Fnmatch, false, `a b B bank example . . - _ [ab] [!a] [^.] [B-D] [!-~] [[:alnum:]] [![:upper:]] []a] * * * * ? ? x % # \a \* é ~ ( ^ $ +`},
}

// One returns one of some texts.
func One(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// Line returns a random line of up to six parts.
func Line(r *rand.Rand, parts []string) (text string) {
	for range 1 + r.IntN(6) {
		text += One(r, parts)
	}
	return text
}

// Syntax returns a random way to read lists of the kind, by host names.
func (k Kind) Syntax(r *rand.Rand) rules.Syntax {
	s := rules.Syntax{Language: k.language, CaseSensitive: r.IntN(3) == 0, DefaultAllow: r.IntN(2) == 0}
	if k.names {
		s.Language = expression.Language(r.IntN(3))
	}
	return s
}

// Whole reports whether lists of the kind may be compared with whole URLs, too.
func (k Kind) Whole() bool { return !k.names }

// List returns a random list of up to four lines: as they are written, and as tinyproxy gets them. keep says which lines are taken.
func (k Kind) List(tb testing.TB, r *rand.Rand, s rules.Syntax, keep func(written string, compiled []string) bool) (written, lines []string) {
	tb.Helper()
	for len(written) < 1+r.IntN(4) {
		text := Line(r, strings.Fields(k.parts))
		content := text
		if k.names {
			content = "#: format domains\n" + text
		}
		f, err := rules.ParseFile("/rules/social.10.137.2.13", []byte(content+"\n"))
		if err != nil || len(f.Entries()) != 1 {
			continue
		}
		compiled, err := f.Lines(s)
		if err != nil {
			continue // the daemon refuses the list
		}
		var texts []string
		for _, l := range compiled {
			texts = append(texts, l.Text)
		}
		if keep(text, texts) {
			written, lines = append(written, text), append(lines, texts...)
		}
	}
	return written, lines
}

// NameFor returns a text to compare with lines: sometimes like one of them, sometimes with bytes that no host name has.
func NameFor(r *rand.Rand, lines []string) string {
	var b strings.Builder
	like := One(r, append(lines, ""))
	if r.IntN(3) == 0 {
		like = ""
	}
	for _, c := range []byte(like) {
		switch {
		case strings.IndexByte(`\^$()[]{}|+?*`, c) < 0 || r.IntN(8) == 0:
			b.WriteByte(c)
		case c == '*' || c == '[' || c == '?':
			b.WriteString(One(r, []string{"", "a", "b", "www", "B", "."}))
		}
	}
	parts := []string{"a", "b", "A", "B", "C", "bank", "example", "BANK", "com", "x", ".", ".", "..", "-", "_", "1"}
	if r.IntN(4) == 0 {
		parts = append(parts, "\t", "\x01", "\x7f", "\x80", "\xc3\xa9", "\xff", "!", "%", "#", "~", "*", `\`, "^", "$", "|", "(", ")", "+", "?", "{", "]")
	}
	for range r.IntN(3) {
		b.WriteString(One(r, parts))
	}
	name := []byte(b.String() + One(r, []string{"", "", ".", "a"}))
	for i, c := range name {
		if strings.IndexByte(" /@:[\n", c) >= 0 { // these end a host, or a request line
			name[i] = 'a'
		}
	}
	return string(name)
}

// Start runs a tinyproxy that reads lines as the syntax says.
func Start(t *testing.T, s rules.Syntax, lines []string) (*rulestest.Proxy, error) {
	t.Helper()
	return rulestest.Start(t, func(v rulestest.Values) string {
		text := rules.Builtin().Render(rules.Values(v)) + rulestest.Directives(s.Language, s.CaseSensitive)
		if s.DefaultAllow {
			text = strings.Replace(text, "FilterDefaultDeny Yes", "FilterDefaultDeny No", 1)
		}
		if s.URLs {
			text += "FilterURLs Yes\n"
		}
		return text
	}, []byte(strings.Join(lines, "\n")+"\n"))
}
