package rules

import (
	"fmt"
	"strings"
	"testing"

	"vifproxy/rules/expression"
)

// All that a template can make of filter lines, but for FilterURLs.
var syntaxes = []Syntax{
	{Language: expression.Basic},
	{Language: expression.Basic, CaseSensitive: true},
	{Language: expression.Extended},
	{Language: expression.Extended, CaseSensitive: true},
	{Language: expression.Fnmatch},
}

// show prints what tinyproxy would get to read, with line numbers.
func show(f File, s Syntax) string {
	lines, err := f.Lines(s)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, line := range lines {
		fmt.Fprintf(&b, "%d %s\n", line.Line, line.Text)
	}
	return b.String()
}

func TestDomainLines(t *testing.T) {
	f, err := ParseFile(somePath, []byte("#: format domains\nwww.a1.example # one\n*.b.example\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		syntax Syntax
		want   string
	}{
		{Syntax{}, `
2 ^www\.a1\.example\.?$
3 ^([a-zA-Z0-9_-]+\.)+b\.example\.?$
`},
		{Syntax{Language: expression.Fnmatch}, `
2 ^[wW][wW][wW]\.[aA]1\.[eE][xX][aA][mM][pP][lL][eE]\.?$
3 ^([a-zA-Z0-9_-]+\.)+[bB]\.[eE][xX][aA][mM][pP][lL][eE]\.?$
`},
		{Syntax{DefaultAllow: true}, `
2 ^www\.a1\.example\.\{0,1\}$
3 ^[-_0-9A-Za-z][-_.0-9A-Za-z]*\.b\.example\.\{0,1\}$
`},
		{Syntax{DefaultAllow: true, Language: expression.Fnmatch}, `
2 [wW][wW][wW].[aA]1.[eE][xX][aA][mM][pP][lL][eE]
2 [wW][wW][wW].[aA]1.[eE][xX][aA][mM][pP][lL][eE].
3 ?*.[bB].[eE][xX][aA][mM][pP][lL][eE]
3 ?*.[bB].[eE][xX][aA][mM][pP][lL][eE].
`},
		{Syntax{URLs: true}, "\n" + somePath + ":1: names cannot be compared with whole URLs, which " +
			"FilterURLs in the template `config` asks for (remove FilterURLs from the template `config`, or write patterns " +
			"instead of names)"},
	} {
		if got := "\n" + show(f, c.syntax); got != c.want {
			t.Errorf("%+v: got %swant %s", c.syntax, got, c.want)
		}
	}
}

func TestLongDomains(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "abc" // 253 characters, the most there can be
	dots := strings.Repeat("a.", 126) + "a"                        // as many dots as there can be
	f, err := ParseFile(somePath, []byte("#: format domains\n*."+long+"\n*."+dots+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range syntaxes {
		want := ""
		if s.CaseSensitive || s.Language == expression.Fnmatch {
			want = "is too long to be compared without regard to case"
		}
		_, err := f.Lines(s)
		checkError(t, fmt.Sprint(s), err, want)
	}
}
