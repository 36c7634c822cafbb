package rules

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

// All that a template can make of filter lines, but for FilterURLs.
var syntaxes = []Syntax{
	{Language: Basic},
	{Language: Basic, CaseSensitive: true},
	{Language: Extended},
	{Language: Extended, CaseSensitive: true},
	{Language: Fnmatch},
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
		{Syntax{Language: Fnmatch}, `
2 ^[wW][wW][wW]\.[aA]1\.[eE][xX][aA][mM][pP][lL][eE]\.?$
3 ^([a-zA-Z0-9_-]+\.)+[bB]\.[eE][xX][aA][mM][pP][lL][eE]\.?$
`},
		{Syntax{Forbid: true}, `
2 ^www\.a1\.example\.\{0,1\}$
3 ^[-_0-9A-Za-z][-_.0-9A-Za-z]*\.b\.example\.\{0,1\}$
`},
		{Syntax{Forbid: true, Language: Fnmatch}, `
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
		if s.CaseSensitive || s.Language == Fnmatch {
			want = "is too long to be compared without regard to case"
		}
		_, err := f.Lines(s)
		checkError(t, fmt.Sprint(s), err, want)
	}
}

func TestCanonical(t *testing.T) {
	for _, c := range []struct{ entry, want, err string }{
		{"example.com", "example.com", ""},
		{"Example.COM.", "example.com", ""},
		{"*.example.com", "*.example.com", ""},
		{"*.com", "*.com", ""},
		{"localhost", "localhost", ""},
		{"_dmarc.example.com", "_dmarc.example.com", ""},
		{"r3---sn-4g5e6nls.example.com", "r3---sn-4g5e6nls.example.com", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"bücher.example", "xn--bcher-kva.example", ""},
		{"*.BÜCHER.example", "*.xn--bcher-kva.example", ""},
		{"straße.example", "xn--strae-oqa.example", ""}, // as browsers have it, not strasse
		{"bu\u0308cher.example", "xn--bcher-kva.example", ""},
		{"例え.テスト", "xn--r8jz45g.xn--zckzah", ""},
		{"例え。テスト", "xn--r8jz45g.xn--zckzah", ""},
		{"ｅｘａｍｐｌｅ．ｃｏｍ", "example.com", ""},

		{"https://example.com/", "", "write the host name alone, or HOST:PORT, without scheme or path"},
		{"[::1]", "", "is a pattern"},
		{"^example\\.com$", "",
			`"^example\.com$" is a pattern, not a host name (write a name, such as bank.example, or *.bank.example for all`},
		{"*", "", "write *.example.com for all"},
		{"*.*.example.com", "", "write *.example.com for all"},
		{"www.*.com", "", "write *.example.com for all"},
		{"*example.com", "", "write *.example.com for all"},
		{".example.com", "", "write *.example.com for all names below example.com, example.com for that host, or both"},
		{"*.", "", "labels are"},
		{".", "", "write *.example.com"},
		{"a..example", "", "labels are"},
		{"example.com..", "", "labels are"},
		{"-a.example", "", "labels are"},
		{"a-.example", "", "labels are"},
		{"a,b.example", "", "labels are"},
		{"＊.example.com", "", "labels are"},
		{strings.Repeat("a", 64) + ".example", "", "labels are"},
		{strings.Repeat("aa.", 84) + "example", "", "at most 253"},
		{"xn--a.example", "", "look at its spelling"},
		{"a\u05d0.example", "", "look at its spelling"}, // Latin and Hebrew letters in one label
		{"192.0.2.1", "192.0.2.1", ""},
		{"192.0.2.256", "", "an address is"},
		{"*.192.0.2.1", "", "no names below it"},
		{"*.1", "", "an address is"},
		{"127.1", "", "an address is"},
		{"0x7f000001", "", "an address is"},
		{"1.0x", "", "an address is"},
	} {
		got, flaw := canonical(c.entry)
		if flaw != nil {
			checkError(t, c.entry, flaw, c.err)
		} else if got != c.want || c.err != "" {
			t.Errorf("%q: got %q, want %q %s", c.entry, got, c.want, c.err)
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{"example.com", "*.Example.com.", "bücher.example", "例え。テスト", "＊.example",
		"192.0.2.1", "xn--bcher-kva.example", "a\u00ad.example", "_a.b-c.d"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		if !utf8.ValidString(entry) {
			return // refused before it gets here
		}
		name, flaw := canonical(entry)
		if flaw != nil {
			return
		}
		if again, flaw := canonical(name); flaw != nil || again != name {
			t.Fatalf("%q became %q, which becomes %q (%v)", entry, name, again, flaw)
		}
		host, _ := strings.CutPrefix(name, "*.")
		if len(host) > 253 || strings.Trim(host, "-_.0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			t.Fatalf("%q became %q", entry, name)
		}
	})
}
