package rules

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"vifproxy/rules/expression"
)

const somePath = "/rules/social.10.137.2.13"

func TestParseFile(t *testing.T) {
	for _, c := range []struct{ what, content, lines, err string }{
		{"empty", "", "", ""},
		{"comments and blank lines", "# a\n\n   \n\t# b\n#\n# : not a directive\n", "", ""},
		{"two patterns", "^a\\.example$\n^b\\.example$\n", "1 ^a\\.example$\n2 ^b\\.example$\n", ""},
		{"no newline at the end", "^a$\n^b$", "1 ^a$\n2 ^b$\n", ""},
		{"blanks around", "  ^a$\t \n", "1 ^a$\n", ""},
		{"CRLF", "# x\r\n^a$\r\n^b$ \r\n\r\n", "2 ^a$\n3 ^b$\n", ""},
		{"a comment behind", "^a$ # mine\n^b$\t#mine\n", "1 ^a$\n2 ^b$\n", ""},
		{"a comment in any script", "# Bücher 書 🙂\n^a$ # für mich\n", "2 ^a$\n", ""},
		{"an escaped #", "a\\#b\n\\#\n", "1 a\\#b\n2 \\#\n", ""},
		{"byte order mark", "\ufeff^a$\n", "1 ^a$\n", ""},
		{"the directive that changes nothing", "#: format patterns\n^a$\n", "2 ^a$\n", ""},
		{"511 bytes", strings.Repeat("a", 511) + "\r\n", "1 " + strings.Repeat("a", 511) + "\n", ""},

		{"cut", "^a$\n^bank\\.com $\n", "", somePath + `:2: white space inside "^bank\.com $"; ` +
			`tinyproxy would cut it to "^bank\.com" (remove the white space, or begin the comment with '#')`},
		{"two on a line", "a.example b.example", "", `:1: white space inside "a.example b.example"`},
		{"a tab", "a\tb", "", `white space inside "a\tb"`},
		{"# inside", "^a$\n  ^bank#1$", "", `:2: '#' inside "^bank#1$"; tinyproxy would cut it to "^bank"`},
		{"# behind", "^bank$# mine", "", `:1: '#' inside "^bank$#"; tinyproxy would cut it to "^bank$"`},
		{"512 bytes", strings.Repeat("a", 512), "",
			":1: 512 bytes in a line; tinyproxy would split it after 511 (make two lines of it)"},
		{"long comment", "#" + strings.Repeat(" a", 300), "", ":1: 601 bytes in a line"},
		{"NUL", "^a$\n^b\x00c$", "", ":2: a NUL byte; tinyproxy would end the line there (remove it)"},
		{"NUL in a comment", "# \x00", "", ":1: a NUL byte"},
		{"invalid UTF-8", "^a$\n^b\xffc$", "", ":2: invalid UTF-8: byte 0xff (save the file as UTF-8)"},
		{"Latin-1 in a comment", "# f\xfcr", "", ":1: invalid UTF-8: byte 0xfc"},
		{"ESC", "# \x1b[2J", "", `:1: the invisible character '\x1b' (remove it)`},
		{"CR as line end", "# old Mac\r^a$\r", "", `:1: the invisible character '\r' (save the file with Unix line ends)`},
		{"form feed", "^a$\f^b$", "", `:1: the invisible character '\f'`},
		{"line separator", "# x\u2028^a$", "", `:1: the invisible character '\u2028'`},
		{"reversed text", "^a$ # \u202e$b^", "", `:1: the invisible character '\u202e'`},
		{"beyond ASCII", "^bücher\\.example$", "",
			`:1: '\u00fc' in "^bücher\.example$" never matches: hosts are sent in ASCII (write the name as`},
		{"no-break space", "^a$\u00a0# mine", "", `:1: '#' inside "^a$\u00a0#"`},
		{"zero-width space", "^a\u200b$", "", `:1: '\u200b' in "^a\u200b$" never matches`},
		{"a directive that concerns no pattern", "#: egress 192.168.1.0/24\n^a$\n", "2 ^a$\n", ""},
		{"a URL among names", "#: format domains\nhttps://bank.example/login\n", "",
			`:2: "https://bank.example/login" is not a host name (write bank.example)`},
		{"a pattern among names", "#: format domains\n^bank\\.example$\n", "",
			`:2: "^bank\.example$" is a pattern, not a host name (write bank.example)`},
		{"a directive with a slip", "#: format domain\nbank.example\n", "", `:1: unknown directive "#: format domain" (write #: format domains)`},
		{"an include with a slip", "#: incldue office\n", "", `:1: unknown directive "#: incldue office" (write #: include office)`},
		{"unknown directive", "#: ingress 192.168.1.0/24", "",
			`:1: unknown directive "#: ingress 192.168.1.0/24" (known are "#: format domains", "#: format`},
		{"empty directive", "#:", "", `:1: unknown directive "#: "`},
		{"hostile directive", "#: \x7f", "", `:1: the invisible character '\x7f'`},
		{"unknown format", "#: format hosts", "", `unknown directive "#: format hosts"`},
		{"format without a value", "  #:format", "", `unknown directive "#: format"`},
		{"format too late", "^a$\n#: format domains", "", ":2: the format is chosen too late (choose it"},
		{"format twice", "#: format patterns\n#: format domains", "", ":2: the format is chosen in line 1 already (remove one"},
		{"format twice, otherwise spelt", "#: format domains\n#:format domains", "", ":2: the format is chosen in line 1 already (remove one"},
		{"an IPv6 address without brackets", "#: format domains\n2001:DB8::2", "", "in brackets: [2001:db8::2])"},
		{"ports in a line", "#: format domains\ngit.example:22,23", "", "more ports are more lines)"},
		{"directive behind", "^a$ #: format domains", "", `:1: a directive stands behind "^a$"`},
		{"too large", strings.Repeat("# a\n", sizeMax/4) + "a", "", somePath + ": is larger than 1024 KiB"},
	} {
		f, err := ParseFile(somePath, []byte(c.content))
		checkError(t, c.what, err, c.err)
		if err != nil {
			continue
		}
		if f.Name != "social" || f.Addr != netip.MustParseAddr("10.137.2.13") || f.Path != somePath {
			t.Errorf("%s: got %+v", c.what, f)
		}
		for _, s := range syntaxes {
			s.DefaultAllow = true // else they are compiled
			if got := show(f, s); got != c.lines {
				t.Errorf("%s: got\n%swant\n%s", c.what, got, c.lines)
			}
		}
	}
}

func TestParseFileWantsItsName(t *testing.T) {
	_, err := ParseFile("/rules/config", nil)
	checkError(t, "config", err, "/rules/config: is not named like a rule file (name it NAME.A.B.C.D")
	_, err = ParseFile("/rules/social.10.137.2.256", nil)
	checkError(t, "256", err, `/rules/social.10.137.2.256: "10.137.2.256" is not an IPv4 address (write four`)
	_, err = ParseFile("/r\x1b/social.10.137.2.1", []byte("a b"))
	checkError(t, "hostile path", err, `"/r\x1b/social.10.137.2.1":1: white space`)
}

func TestLinesAreACopy(t *testing.T) {
	f, err := ParseFile(somePath, []byte("^a$"))
	if err != nil {
		t.Fatal(err)
	}
	lines, _ := f.Lines(Syntax{})
	lines[0].Text = "changed"
	if got := show(f, Syntax{}); got != "1 ^a$\n" {
		t.Error("the caller changed the file:", got)
	}
}

func FuzzParseFile(f *testing.F) {
	seeds, err := filepath.Glob("testdata/rules/*")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds:", err)
	}
	for _, seed := range seeds {
		content, err := os.ReadFile(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := ParseFile(somePath, content)
		if err != nil {
			if text := err.Error(); !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
				t.Fatalf("unsafe error text: %q", text)
			}
			return
		}
		for _, s := range syntaxes {
			lines, err := file.Lines(s)
			if err != nil {
				continue
			}
			previous := 0
			for _, line := range lines {
				if line.Text == "" || len(line.Text) > expression.LineMax || line.Text[0] == '#' {
					t.Fatalf("not one pattern: %q", line.Text)
				}
				if strings.ContainsFunc(line.Text, isUnprintable) || line.Line < previous {
					t.Fatalf("line %d after line %d: %q", line.Line, previous, line.Text)
				}
				previous = line.Line
			}
			// What was read reads the same again.
			if !file.domains {
				again, err := ParseFile(somePath, staged(lines))
				if err != nil {
					t.Fatal(err)
				}
				got, _ := again.Lines(s.Compiled())
				if !slices.EqualFunc(got, lines, func(a, b Line) bool { return a.Text == b.Text }) {
					t.Fatalf("%+v became %+v", lines, got)
				}
			}
		}
	})
}

func isControl(r rune) bool     { return r < ' ' || 0x7f <= r && r < 0xa0 }
func isUnprintable(r rune) bool { return r <= ' ' || r > '~' }
