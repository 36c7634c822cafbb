package hostname

import (
	"strings"
	"testing"
	"unicode/utf8"
)

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
		{"bank.example\u00a0", "", `remove the character '\u00a0', which no host name has`},
		{"\u201cbank.example\u201d", "", "remove the character '“'"},
		{"bank\u2013x.example", "", "write '-' in the place of '–'"},
		{"m\xfcller.example", "", "as UTF-8"},
		{"m\ufffdller.example", "", "as UTF-8"},
		{"10.0.0.0/8", "", "name the hosts in it"},
		{"foo bar", "", "remove the character ' '"},
		{"नमस्ते.example", "xn--h2bhs4b8d8a.example", ""},
		{"l·l.example", "xn--ll-0ea.example", ""},
		{".", "", "write *.example.com"},
		{"a..example", "", "write one '.' between labels"},
		{"example.com..", "", "write one '.' between labels"},
		{"-a.example", "", "labels are"},
		{"a-.example", "", "labels are"},
		{"a,b.example", "", "remove the character ','"},
		{"＊.example.com", "", "remove the character '＊'"},
		{strings.Repeat("a", 64) + ".example", "", "labels are"},
		{strings.Repeat("aa.", 84) + "example", "", "at most 253"},
		{"xn--a.example", "", "look at its spelling"},
		{"a\u05d0.example", "", "look at its spelling"}, // Latin and Hebrew letters in one label
		{"192.0.2.1", "192.0.2.1", ""},
		{"192.0.2.256", "", "an address is"},
		{"192.000.2.1", "", "without leading zeros"},
		{"*.192.0.2.1", "", "no names below it"},
		{"*.1", "", "an address is"},
		{"127.1", "", "an address is"},
		{"0x7f000001", "", "an address is"},
		{"1.0x", "", "an address is"},
	} {
		got, flaw := Canonical(c.entry)
		if flaw != nil {
			if c.err == "" || !strings.Contains(flaw.Error(), c.err) {
				t.Errorf("%q: error %q, want %q", c.entry, flaw, c.err)
			}
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
		name, flaw := Canonical(entry)
		if flaw != nil {
			return
		}
		if again, flaw := Canonical(name); flaw != nil || again != name {
			t.Fatalf("%q became %q, which becomes %q (%v)", entry, name, again, flaw)
		}
		host, _ := strings.CutPrefix(name, "*.")
		if len(host) > 253 || strings.Trim(host, "-_.0123456789abcdefghijklmnopqrstuvwxyz") != "" {
			t.Fatalf("%q became %q", entry, name)
		}
	})
}

func TestSite(t *testing.T) {
	for name, want := range map[string]string{
		"cdn.bank.example": "bank.example", "bank.example": "bank.example", "a.b.co.uk": "b.co.uk", "co.uk": "co.uk", "me.github.io": "me.github.io",
		"x.me.github.io": "me.github.io", "192.0.2.1": "192.0.2.1", "localhost": "localhost", "": "", "a..b": "a..b",
	} {
		if got := Site(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
