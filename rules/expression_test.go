package rules

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestLinesMatchHostNamesOnly(t *testing.T) {
	for _, tt := range []struct {
		syntax     Syntax
		line, want string // "" where no host name matches
	}{
		// What people have had for years stays as it is.
		{Syntax{}, `^bank\.example$`, `^bank\.example$`},
		{Syntax{}, `^192\.0\.2\.1$`, `^192\.0\.2\.1$`},
		{Syntax{}, `^api[0-9]*\.bank\.example$`, `^api[0-9]*\.bank\.example$`},
		{Syntax{}, `^[a-zA-Z0-9._-]*\.bank\.example$`, `^[a-zA-Z0-9._-]*\.bank\.example$`},
		{Syntax{Language: Extended}, `^(a|b)\.bank\.example$`, `^(a|b)\.bank\.example$`},
		// What is open is written out.
		{Syntax{}, `\.bank\.example$`, `^[a-zA-Z0-9._-]*\.bank\.example$`},
		{Syntax{}, `^.*\.bank\.example$`, `^[a-zA-Z0-9._-]*\.bank\.example$`},
		{Syntax{}, `bank`, `^[a-zA-Z0-9._-]*bank[a-zA-Z0-9._-]*$`},
		{Syntax{}, `^www.bank\.example$`, `^www[a-zA-Z0-9._-]bank\.example$`},
		{Syntax{}, `^[^.]*\.x$`, `^[a-z0-9_-]*\.x$`},
		{Syntax{CaseSensitive: true}, `^[^.a-y]*\.x$`, `^[zA-Z0-9_-]*\.x$`},
		{Syntax{}, `^[^a]$`, `^[b-z0-9._-]$`},
		{Syntax{}, `^[[:alpha:]][].[]\{2,3\}\(b\|^c\)*$`, `^[a-z]\.{2,3}(b|^c)*$`},
		{Syntax{}, `^a\+b*\?c\{2,\}$`, `^a+(b*)?c{2,}$`},
		{Syntax{Language: Extended}, `(^|\.)bank\.example$`, `^[a-zA-Z0-9._-]*(^|\.)bank\.example$`},
		{Syntax{Language: Extended}, `^a$|b`, `^a$|^[a-zA-Z0-9._-]*b[a-zA-Z0-9._-]*$`},
		{Syntax{Language: Extended}, `^\w\W\bx$`, `^[a-z0-9_][.-]\bx$`},
		{Syntax{Language: Fnmatch}, `*.bank.example`, `^[a-zA-Z0-9._-]*\.bank\.example$`},
		{Syntax{Language: Fnmatch}, `w?w.[!b]\a.x`, `^w[a-zA-Z0-9._-]w\.[ac-zA-Z0-9._-]a\.x$`},
		// What no host name has never matches.
		{Syntax{}, `^bank\.example/$`, ``},
		{Syntax{}, `^(a|b)$`, ``},
		{Syntax{}, `*.bank.example`, ``},
		{Syntax{}, `^\example\.bank$`, ``},
		{Syntax{CaseSensitive: true}, `^\example\.bank$`, `^example\.bank$`},
		{Syntax{}, `^\Example\.bank$`, `^Example\.bank$`},
		{Syntax{}, `^bank\.example:443$`, ``},
		{Syntax{}, `%`, ``},
		{Syntax{}, `[/:]`, ``},
		{Syntax{}, `^bank/*\.example$`, `^bank\.example$`},
		{Syntax{Language: Extended}, `^(a|b/|c@)\.x$`, `^(a)\.x$`},
		// The only colons are those of a whole address.
		{Syntax{}, `^2001:db8::1$`, `^2001:db8::1$`},
		{Syntax{}, `^::ffff:192\.0\.2\.1$`, `^::ffff:192\.0\.2\.1$`},
		{Syntax{}, `^2001:db8:.*$`, ``},
		{Syntax{}, `2001:db8::1`, ``},
		{Syntax{Language: Fnmatch}, `2001:db8::1`, `^2001:db8::1$`},
		// Not a white list of hosts.
		{Syntax{Forbid: true}, `bank`, `bank`},
		{Syntax{URLs: true}, `^http://bank\.example/`, `^http://bank\.example/`},
	} {
		f, err := ParseFile(somePath, []byte(tt.line))
		must(t, err)
		lines, err := f.Lines(tt.syntax)
		must(t, err)
		got := ""
		for _, l := range lines {
			got += l.Text
		}
		if got != tt.want {
			t.Errorf("%s under %+v: got %s, want %s", tt.line, tt.syntax, got, tt.want)
		}
	}
}

func TestLinesThatCannotBeNarrowed(t *testing.T) {
	extended := Syntax{Language: Extended}
	for _, tt := range []struct {
		syntax     Syntax
		line, want string
	}{
		{Syntax{}, `^\(a\)\1$`, "refers back to what a parenthesis matched (write a line for each)"},
		{Syntax{}, `^\(a$`, "opens a parenthesis that nothing closes"},
		{Syntax{}, `a\)`, "closes a parenthesis that is not open"},
		{Syntax{}, `[a`, "opens a bracket that nothing closes"},
		{Syntax{}, `[[:host:]]`, "has an unknown class in its brackets"},
		{Syntax{}, `[[.hyphen.]]`, "names a collating element in its brackets"},
		{Syntax{}, `[z-a]`, "has a range that ends before it begins"},
		{Syntax{}, `a\{1`, "opens a brace that nothing closes"},
		{Syntax{}, `a\{2,1\}`, "has no numbers that make sense in its braces"},
		{Syntax{}, `a**`, "repeats what is repeated already"},
		{extended, `a{256}`, "has no numbers that make sense in its braces"},
		{extended, `a{}`, "has no numbers that make sense in its braces"},
		{extended, `(a{99}){99}`, "repeats too much"},
		{extended, `*.bank.example`, "repeats nothing"},
		{extended, `a|*b`, "repeats nothing"},
		{Syntax{}, `a\`, "ends with a backslash"},
		{Syntax{}, strings.Repeat(".", 40), "is too long"},
		{Syntax{Language: Fnmatch}, `a\`, "ends with a backslash"},
		{Syntax{Language: Fnmatch}, `[a`, "opens a bracket that nothing closes"},
	} {
		f, err := ParseFile(somePath, []byte("# a list\n"+tt.line))
		must(t, err)
		_, err = f.Lines(tt.syntax)
		checkError(t, tt.line, err, tt.want)
		if err != nil && !strings.HasPrefix(err.Error(), somePath+":2: ") {
			t.Errorf("%s: %v", tt.line, err)
		}
		if found := (Check{Syntax: tt.syntax}).File(somePath, []byte(tt.line)); len(found) != 1 || !found[0].Refused {
			t.Errorf("%s: found %+v", tt.line, found)
		}
	}
}

// Strings of what may stand between "//" and "/" in a request. Those with anything but hostClass are no host names.
var oddHosts = func() (all []string) {
	for _, c := range "\t\x01\v\r!\"#$%&'()*+,;<=>?[\\]^`{|}~\x7f\x80\xff" {
		for _, form := range []string{"%cbank.example", "x%c.bank.example", "bank%c.example", "bank.example%c", "x%cbank.example"} {
			all = append(all, strings.ReplaceAll(form, "%c", string([]byte{byte(c)})))
		}
	}
	return append(all, "a@b@bank.example", "x:1:bank.example", "a:80:.bank.example:80")
}()

// A real tinyproxy, with lines as people write them, lets through what is no host name; with what they are compiled to
// it does not, and of host names it lets through the same.
func TestOnlyHostNamesPassTinyproxy(t *testing.T) {
	random := rand.New(rand.NewPCG(2, 7))
	parts := map[Language][]string{
		Basic: strings.Fields(`a b bank example \. \. . [ab] [^a] [^.] [[:alnum:]] [a-c] .* * \+ \? \{1,2\} \(a\|b\) \( \) ` +
			`\| ^ $ \b \w \W \< x - _ % # [^[:alpha:]] [B-D] [!-~]`),
		Extended: strings.Fields(`a b bank example \. \. . [ab] [^a] [^.] [[:alnum:]] [a-c] .* * + ? {1,2} (a|b) ( ) | ^ $ ` +
			`\b \w \W \< x - _ % # [^[:upper:]] [B-D] [!-~]`),
		Fnmatch: strings.Fields(`a b bank example . . * ? [ab] [!a] [^.] [[:alnum:]] [a-c] x - _ % # \* [B-D] [!-~]`),
	}
	names := []string{"bank.example", "www.bank.example", "a.b.bank.example", "BANK.EXAMPLE", "xbank.example", "bankxexample",
		"a", "ab", "a.b", "x", "b-a", "_a.x", "A.b", "bank.example.", "bank", "abank", "C", "192.0.2.1"}
	open, rounds := 0, 60
	for round := range rounds {
		s := syntaxes[round%len(syntaxes)]
		var lines []string
		for len(lines) < 3 { // in one process
			pattern := ""
			if random.IntN(3) == 0 {
				pattern = [][]string{Basic: {"", "^.*", `\.`, ".*", "^"}, Extended: {"", "^.*", "(^|x)", "^(x|)", "^[^.]*"},
					Fnmatch: {"", "*", "*.", "?", "[!a]*"}}[s.Language][random.IntN(5)] +
					map[bool]string{true: "bank.example", false: `bank\.example`}[random.IntN(2) == 0] +
					[]string{"", "$", "$"}[random.IntN(3)]
			} else {
				for range 1 + random.IntN(6) {
					pattern += parts[s.Language][random.IntN(len(parts[s.Language]))]
				}
			}
			f, err := ParseFile(somePath, []byte(pattern))
			if err != nil || len(f.entries) != 1 {
				continue
			}
			if _, err := f.Lines(s); err == nil { // else it is refused
				lines = append(lines, pattern)
			}
		}
		raw := strings.Join(lines, "\n") + "\n"
		f, err := ParseFile(somePath, []byte(raw))
		must(t, err)
		compiled, err := f.Lines(s)
		must(t, err)
		old, err := start(t, s, []byte(raw))
		if err != nil {
			t.Errorf("%q under %+v: tinyproxy refuses what is compiled to %q: %v", raw, s, staged(compiled), err)
			continue
		}
		fresh, err := start(t, s.compiled(), staged(compiled))
		if err != nil {
			t.Errorf("%q under %+v became %q: %v", raw, s, staged(compiled), err)
			continue
		}
		for _, name := range names {
			if old.permits(name) != fresh.permits(name) {
				t.Errorf("%q under %+v became %q, which permits %s: %v", raw, s, staged(compiled), name, fresh.permits(name))
			}
		}
		for range 20 {
			host := oddHosts[random.IntN(len(oddHosts))]
			if old.permits(host) {
				open++
			}
			if fresh.permits(host) {
				t.Errorf("%q under %+v became %q, which permits %q", raw, s, staged(compiled), host)
			}
		}
	}
	if open < 50 {
		t.Errorf("only %d of what is no host name passed lines as they are written", open)
	}
}
