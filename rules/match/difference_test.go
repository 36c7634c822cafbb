package match

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest/randomlist"
)

func TestBeyond(t *testing.T) {
	extended := rules.Syntax{Language: expression.Extended}
	for _, tt := range []struct {
		name, line, list string
		texts            Texts
		want             string // "-" if there is none
	}{
		{"the same", `^bank\.example$`, `^bank\.example$`, Names, "-"},
		{"another one", `^a\.example$`, `^bank\.example$`, Names, "a.example"},
		{"below a domain", `^([a-zA-Z0-9_-]+\.)+bank\.example\.?$`, `^bank\.example\.?$ ^www\.bank\.example\.?$`, Names, "a.bank.example"},
		{"covered by a domain", `^www\.bank\.example\.?$`, `^([a-zA-Z0-9_-]+\.)+bank\.example\.?$`, Names, "-"},
		{"two narrower lines cover it", `^[ab]\.example$`, `^b\.example$ ^a\.example$`, Names, "-"},
		{"two of three", `^[abc]\.example$`, `^b\.example$ ^a\.example$`, Names, "c.example"},
		{"written in another way", `^(a|b)+\.example$`, `^[ab][ab]*\.example$`, Names, "-"},
		{"a period at the end", `^a\.example\.?$`, `^a\.example$`, Names, "-"},
		{"a period at the end, in all texts", `^a\.example\.?$`, `^a\.example$`, AllTexts, "a.example."},
		{"a period at the end, in hosts", `^a\.example\.$`, `^a\.example$`, Hosts, "a.example."},
		{"two periods at the end, in hosts", `^a\.example\.*$`, `^a\.example\.?$`, Hosts, "-"},
		{"case", `^[aA]$`, `^a$`, AllTexts, "A"},
		{"anywhere", `bank`, `bank$`, Names, "banka"},
		{"anywhere, before", `bank`, `^bank ^abank`, Names, "bbank"},
		{"words", `\bbank\b`, `^bank$ ^bank[.] [.]bank$ -bank`, Names, ":bank"},
		{"not a word", `bank`, `\bbank`, Names, "abank"},
		{"length", `^a{3,5}$`, `^a{3}$ ^a{5}$`, Names, "aaaa"},
		{"an address", `^2001:db8::1$`, `^2001:db8::2$`, Names, "2001:db8::1"},
		{"no name matches it", `^a\.\.b$`, `x`, Names, "-"},
		{"nothing", `^\.$`, `^a`, Names, "-"},
		{"everything", ``, `^a ^b ^[c-z] ^[0-9] ^- ^_`, Names, ":"},
		{"everything but the empty text", ``, `.`, AllTexts, ""},
	} {
		s := extended
		s.CaseSensitive = tt.name == "case"
		d := New([]string{tt.line}, s).Without(New(strings.Fields(tt.list), s), tt.texts)
		got, found, err := d.Beyond(0)
		if !found {
			got = "-"
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

// For random pairs of lists, what Beyond finds is matched by the line and by no line of the other list, nothing shorter is, and where it
// finds nothing, no name that is like a line contradicts it.
func TestBeyondAgreesWithMatch(t *testing.T) {
	for _, k := range randomlist.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(19, 5))
			beyond, within := 0, 0
			for range *pairs / 4 {
				s := k.Syntax(r)
				exact := func(_ string, compiled []string) bool { return New(compiled, s.Compiled()).Exact() }
				written, first := k.List(t, r, s, exact)
				others, second := k.List(t, r, s, exact)
				if len(first) > 0 && r.IntN(3) == 0 {
					second = append(second, first[r.IntN(len(first))])
				}
				a, b := New(first, s.Compiled()), New(second, s.Compiled())
				texts := Texts(r.IntN(3))
				d := a.Without(b, texts)
				for i := range first {
					differs := func(text string) bool {
						_, in := b.Match(text)
						return slices.Contains(a.Lines(text, len(first)), i) && !in && isOf(texts, text)
					}
					text, found, err := d.Beyond(i)
					switch {
					case err != nil:
						t.Errorf("%q, without %q: %v", first[i], second, err)
					case found:
						if beyond++; !differs(text) {
							t.Errorf("%q, without %q, texts %v: %q", first[i], second, texts, text)
						}
					default:
						within++
					}
					for range 5 {
						if name := randomlist.NameFor(r, append(written, others...)); differs(name) && (!found || len(name) < len(text)) {
							t.Errorf("%q, without %q, texts %v: %q, %v, and %q", first[i], second, texts, text, found, name)
						}
					}
				}
			}
			t.Logf("%d lines have something beyond a list, %d have not", beyond, within)
			if min(beyond, within) < *pairs/40 {
				t.Error("they are too much alike")
			}
		})
	}
}

// isOf reports whether a text is one of those.
func isOf(texts Texts, text string) bool {
	if texts == Hosts {
		text = strings.TrimSuffix(text, ".")
	}
	return texts == AllTexts || !slices.ContainsFunc(strings.Split(text, "."), func(label string) bool {
		return label == "" || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_:") != ""
	})
}

// A real tinyproxy lets pass what Beyond finds with the first list, and not with the second.
func TestTinyproxyConfirmsBeyond(t *testing.T) {
	for _, k := range randomlist.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(5, 19))
			for tried := 0; tried < *pairs; {
				s := k.Syntax(r)
				s.DefaultAllow = false
				exact := func(_ string, compiled []string) bool { return New(compiled, s.Compiled()).Exact() }
				var witnesses []string
				var first, second []string
				for range 40 { // a tinyproxy takes longer to start than all of this
					_, lines := k.List(t, r, s, exact)
					first = append(first, lines...)
				}
				_, second = k.List(t, r, s, exact)
				d := New(first, s.Compiled()).Without(New(second, s.Compiled()), Names)
				for i := range first {
					if text, found, err := d.Beyond(i); err != nil {
						t.Error(err)
					} else if found && !strings.Contains(text, ":") { // which ends a host in a URL
						witnesses = append(witnesses, text)
					}
				}
				tried += 10 * len(first)
				for which, lines := range [][]string{first, second} {
					want := []int{200, 403}[which]
					t.Run("", func(t *testing.T) {
						proxy, err := randomlist.Start(t, s.Compiled(), lines)
						if err != nil {
							t.Fatalf("%q under %+v: %v", lines, s, err)
						}
						for _, text := range witnesses {
							if code := proxy.Status("GET", "http://"+text+"/"); code != want {
								t.Errorf("%q in %q under %+v: %d, want %d", text, lines, s, code, want)
							}
						}
					})
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// Patterns that take too long to compare are given up, alone and together. The other lines of their list are compared.
func TestDifferencesAreBounded(t *testing.T) {
	extended := rules.Syntax{Language: expression.Extended}
	same := "^(a|b){40}a(a|b)*$" // read from its end, any of the last 41 characters may be the a
	lines := append(slices.Repeat([]string{same}, 8), `^bank\.example$`)
	d := New(lines, extended).Without(New([]string{"^[ab]{40}a[ab]*$"}, extended), Names)
	for i := range lines {
		text, found, err := d.Beyond(i)
		if i < 8 && err != ErrTooMuch || i == 8 && d.left > 0 {
			t.Errorf("%s: %q, %v, %v, and %d steps left", lines[i], text, found, err, d.left)
		}
	}
	d = New(lines[7:], extended).Without(New([]string{"^[ab]{40}a[ab]*$"}, extended), Names)
	for i, want := range []string{"", "bank.example"} {
		if text, _, err := d.Beyond(i); text != want || (err == nil) != (i == 1) {
			t.Errorf("%s: %q, %v", lines[i], text, err)
		}
	}
	if _, _, err := New([]string{`(a)\1`}, extended).Without(New(nil, extended), Names).Beyond(0); err != ErrInexact {
		t.Errorf("a reference back: %v", err)
	}
	if text, found, err := New([]string{`^a$`}, extended).Without(New([]string{`(a)\1`}, extended), Names).Beyond(0); text != "a" || !found || err != ErrInexact {
		t.Errorf("beside a reference back: %q, %v", text, err)
	}
}

// thousand returns a list of a thousand lines that differ in a number.
func thousand(format string) (lines []string) {
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf(format, i))
	}
	return lines
}

func BenchmarkBeyond(b *testing.B) {
	extended := rules.Syntax{Language: expression.Extended}
	for _, bb := range []struct{ name, first, second string }{
		{"Same", `^host%d\.bank\.example\.?$`, `^host%d\.bank\.example\.?$`},
		{"Covered", `^host%d\.bank\.example\.?$`, `^([a-zA-Z0-9_-]+\.)+host%d\.bank\.example\.?$`},
		{"Domains", `^([a-zA-Z0-9_-]+\.)+site%d\.example\.?$`, `^([a-z0-9_-]+\.)+site%d\.example\.?$`},
		{"Anywhere", `host%d\.bank\.example`, `host%d\.bank[.]example`},
	} {
		first, second := thousand(bb.first), thousand(bb.second)
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				begin := time.Now()
				d := New(first, extended).Without(New(second, extended), Names)
				b.ReportMetric(float64(time.Since(begin).Microseconds()), "made-µs")
				for i := range first {
					if _, _, err := d.Beyond(i); err != nil {
						b.Fatal(i, err)
					}
				}
			}
		})
	}
}
