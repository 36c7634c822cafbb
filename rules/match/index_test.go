package match

import (
	"fmt"
	"slices"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
)

// A name is compared with the lines that end as it does, and not with all of a long list: somebody who owns a proxy may have the resolver
// compare as many names as it likes, while others wait for it.
func TestLongLists(t *testing.T) {
	lines := []string{`bank`, `^[^.]*\.example$`}
	for i := range 10000 {
		lines = append(lines, fmt.Sprintf(`^([a-zA-Z0-9_-]+\.)+host%d\.bank%d\.example\.?$`, i, i)) // as `format domains` has it
	}
	m := New(lines, rules.Syntax{Language: expression.Extended})
	for name, want := range map[string]struct{ compared, matching int }{
		"x.HOST7.bank7.example": {3, 2}, "x.host7.bank7.example.": {3, 2}, "host77.bank7.example": {2, 1}, "elsewhere.example": {2, 1}, "example": {1, 0}, "": {1, 0},
	} {
		if compared := m.index.of(name); len(compared) != want.compared || !slices.IsSorted(compared) {
			t.Errorf("%q is compared with the lines %v, want %d", name, compared, want.compared)
		}
		if matching := m.Lines(name, len(lines)); len(matching) != want.matching {
			t.Errorf("%q: the lines %v match, want %d", name, matching, want.matching)
		}
	}
}

// The index leaves out no line that matches, whatever it ends with.
func TestIndexLeavesNothingOut(t *testing.T) {
	for _, tt := range []struct {
		line, text string
		sensitive  bool
	}{
		{`a$`, "xA", false}, {`[aA]$`, "xA", true}, {`[Aa]$`, "xa", true}, {`[a@]$`, "x@", true}, {"[`@]$", "x@", true}, {`A$`, "xA", true}, {`(a|b)$`, "xb", false},
		{`ab?$`, "xa", false}, {`a*$`, "x", false}, {`a{2}$`, "aa", false}, {`a{0}$`, "x", false}, {`a\>$`, "xa", false}, {`^$`, "", false},
		{`^a$`, "a", false}, {`(a$)`, "xa", false}, {`(a$|b)`, "bx", false}, {`a$|b`, "bx", false}, {`a()$`, "xa", false}, {`\.example$`, "X.EXAMPLE", false},
		{`a$$`, "xa", false}, {`\xff$`, "x\xff", false},
		{`a\.?$`, "xa", false}, {`a\.?$`, "xa.", false}, {`a\.\.?$`, "xa.", false}, {`a\.\.?$`, "xa..", false}, {`a\.$`, "xa.", false}, {`\.?$`, "x.", false},
		{`a\.\.$`, "xa..", false}, {`a(\.)?$`, "xa.", false}, {`a\.*$`, "xa..", false}, {`a[.b]?$`, "xab", false}, {`^\.?$`, ".", false}, {`a\.?\.?$`, "xa..", false},
	} {
		m := New([]string{tt.line}, rules.Syntax{Language: expression.Extended, CaseSensitive: tt.sensitive})
		r := newRun(m, tt.text)
		if _, ok := m.Match(tt.text); ok != r.matches(m.lines[0]) {
			t.Errorf("%s, %q: %t with the index", tt.line, tt.text, ok)
		}
	}
}
