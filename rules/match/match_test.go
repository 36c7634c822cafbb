package match

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest"
)

var pairs = flag.Int("pairs", 4000, "how many pairs of a list and a name TestAgreesWithTinyproxy tries, of each kind")

// A kind of list, and parts of which its lines are made.
var kinds = []struct {
	name     string
	language expression.Language
	names    bool
	parts    string
}{
	{"domains", expression.Basic, true, `a b bank example com www. a. *. x-y xn--a`},
	{"basic", expression.Basic, false, `a b B bank example \. \. . - _ [ab] [^a] [^.] [B-D] [!-~] [[:alnum:]] [[:upper:]_] [^[:alpha:]] []a] .* ^ $ ` +
		`\(a\|b\) \(^a\) \(b$\|\) \( \) \| * \+ \? \{1,2\} \{0,\} \{,3\} \{0\} \b \B \w \W \s \S \< \> x % # | + ? ( ) { } \a \A é ~`},
	{"extended", expression.Extended, false, `a b B bank example \. \. . - _ [ab] [^a] [^.] [B-D] [!-~] [[:alnum:]] [[:lower:]_] [^[:punct:]] []a] ` +
		`.* ^ $ (a|b) (^|x) (b$|) ( ) | * + ? {1,2} {2,} {,3} {0} \b \B \w \W \s \S \< \> x % # (a*)+ (|a){2} \x \X é ~`},
	{"fnmatch", expression.Fnmatch, false, `a b B bank example . . - _ [ab] [!a] [^.] [B-D] [!-~] [[:alnum:]] [![:upper:]] []a] * * * * ? ? x % # \a \* é ~ ( ^ $ +`},
}

func random(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// lineOf returns a random line of a kind.
func lineOf(r *rand.Rand, parts []string) (text string) {
	for range 1 + r.IntN(6) {
		text += random(r, parts)
	}
	return text
}

// nameFor returns a text to compare with lines: sometimes like one of them, sometimes with bytes that no host name has.
func nameFor(r *rand.Rand, lines []string) string {
	var b strings.Builder
	like := random(r, append(lines, ""))
	if r.IntN(3) == 0 {
		like = ""
	}
	for _, c := range []byte(like) {
		switch {
		case strings.IndexByte(`\^$()[]{}|+?*`, c) < 0 || r.IntN(8) == 0:
			b.WriteByte(c)
		case c == '*' || c == '[' || c == '?':
			b.WriteString(random(r, []string{"", "a", "b", "www", "B", "."}))
		}
	}
	parts := []string{"a", "b", "A", "B", "C", "bank", "example", "BANK", "com", "x", ".", ".", "..", "-", "_", "1"}
	if r.IntN(4) == 0 {
		parts = append(parts, "\t", "\x01", "\x7f", "\x80", "\xc3\xa9", "\xff", "!", "%", "#", "~", "*", `\`, "^", "$", "|", "(", ")", "+", "?", "{", "]")
	}
	for range r.IntN(3) {
		b.WriteString(random(r, parts))
	}
	name := []byte(b.String() + random(r, []string{"", "", ".", "a"}))
	for i, c := range name {
		if strings.IndexByte(" /@:[\n", c) >= 0 { // these end a host, or a request line
			name[i] = 'a'
		}
	}
	return string(name)
}

// start runs a tinyproxy that reads lines as the syntax says.
func start(t *testing.T, s rules.Syntax, lines []string) (*rulestest.Proxy, error) {
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

// For random lists and names, a real tinyproxy lets pass what the matcher says that it lets pass.
func TestAgreesWithTinyproxy(t *testing.T) {
	const perList = 200
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(20, 26))
			tried, matched, refused := 0, 0, 0
			for list := 0; tried < *pairs; list++ {
				s := rules.Syntax{Language: k.language, CaseSensitive: r.IntN(3) == 0, DefaultAllow: r.IntN(2) == 0}
				if k.names {
					s.Language = expression.Language(r.IntN(3))
				} else {
					s.URLs = r.IntN(5) == 0
				}
				var written, lines []string
				for len(written) < 1+r.IntN(4) {
					text := lineOf(r, strings.Fields(k.parts))
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
					m := New(texts, s.Compiled())
					if s.Narrows() && !m.Exact() {
						t.Fatalf("%s became %q, of which %v", text, texts, m.Inexact())
					}
					if !m.Exact() { // a real tinyproxy judges that
						refused++
						continue
					}
					written, lines = append(written, text), append(lines, texts...)
				}
				m := New(lines, s.Compiled())
				t.Run("", func(t *testing.T) { // ends this tinyproxy before the next one starts
					proxy, err := start(t, s.Compiled(), lines)
					if err != nil {
						t.Errorf("%q under %+v: %v", lines, s, err)
						return
					}
					for range perList {
						name := nameFor(r, written)
						text, url := name, fmt.Sprintf("http://%s/", name)
						if s.URLs {
							url += random(r, []string{"", "a", "b.a", "bank"})
							text = url
						}
						code := proxy.Status("GET", url)
						if code != 200 && code != 403 {
							if name != "" && !strings.HasPrefix(name, ".") {
								t.Logf("%q: status %d", name, code)
							}
							continue
						}
						permits, line := m.Permits(text)
						if tried++; line >= 0 {
							matched++
						}
						if permits != (code == 200) {
							t.Errorf("%q under %+v: %q permitted %v by line %d, and tinyproxy says %d", lines, s, text, permits, line, code)
						}
					}
				})
				if t.Failed() && list > 50 {
					return
				}
			}
			t.Logf("%d pairs, %d of them match; %d lines are not exact", tried, matched, refused)
			if matched < tried/20 {
				t.Errorf("only %d of %d pairs match", matched, tried)
			}
		})
	}
}
