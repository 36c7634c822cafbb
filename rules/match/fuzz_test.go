package match

import (
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
)

// hostile are patterns that make other matchers slow or large.
var hostile = []string{
	`x{255}{255}`, `(x{255}){255}`, `((((x{0,9}){0,9}){0,9}){0,9}){0,9}`, `(a*)*b`, `(a|a)*b`, `(((a+)+)+)+b`, `(|||||||||a){255}`, `((|a)*)*`,
	`^(^|$|\b|\B)*$`, `[^a]{255}[^b]{255}`, strings.Repeat("(", 200) + "a" + strings.Repeat(")*", 200), strings.Repeat(".*", 250),
	strings.Repeat("a*", 250) + "b", `(a)\1`, `(()())*`, `a{,255}{,255}`,
}

// No pattern makes the matcher panic. None takes long for the longest name, because each step is taken once for each byte, and the
// steps are bounded.
func FuzzMatch(f *testing.F) {
	for _, pattern := range hostile {
		for language := range 3 {
			f.Add(pattern, byte(language), strings.Repeat("a", 255))
		}
	}
	f.Add(`^[a-zA-Z0-9._-]*\.bank\.example$`, byte(1), "www.bank.example")
	f.Add(`\(a\|b\)\{2\}[[:alpha:]]`, byte(4), "abé")
	f.Add(`[!a-c]*?\*`, byte(2), "d\xff*")
	f.Fuzz(func(t *testing.T, pattern string, how byte, name string) {
		if len(pattern) > expression.LineMax || len(name) > 1024 {
			return
		}
		s := rules.Syntax{Language: expression.Language(how % 3), CaseSensitive: how&4 != 0}
		m := New([]string{pattern, pattern}, s)
		line, ok := m.Match(name)
		if len(m.steps) > 2*lineStepsMax || ok && line != 0 || ok && len(m.Lines(name, 2)) != 2 {
			t.Errorf("%q: %d steps; %q is matched by line %d, %v", pattern, len(m.steps), name, line, ok)
		}
	})
}
