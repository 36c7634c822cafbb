package rules

import (
	"math/rand/v2"
	"strings"
	"testing"

	"vifproxy/rules/expression"
	"vifproxy/rules/rulestest"
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
		{Syntax{Language: expression.Extended}, `^(a|b)\.bank\.example$`, `^(a|b)\.bank\.example$`},
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
		{Syntax{Language: expression.Extended}, `(^|\.)bank\.example$`, `^[a-zA-Z0-9._-]*(^|\.)bank\.example$`},
		{Syntax{Language: expression.Extended}, `^a$|b`, `^a$|^[a-zA-Z0-9._-]*b[a-zA-Z0-9._-]*$`},
		{Syntax{Language: expression.Extended}, `^\w\W\bx$`, `^[a-z0-9_][.-]\bx$`},
		{Syntax{Language: expression.Fnmatch}, `*.bank.example`, `^[a-zA-Z0-9._-]*\.bank\.example$`},
		{Syntax{Language: expression.Fnmatch}, `w?w.[!b]\a.x`, `^w[a-zA-Z0-9._-]w\.[ac-zA-Z0-9._-]a\.x$`},
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
		{Syntax{Language: expression.Extended}, `^(a|b/|c@)\.x$`, `^(a)\.x$`},
		// The only colons are those of a whole address.
		{Syntax{}, `^2001:db8::1$`, `^2001:db8::1$`},
		{Syntax{}, `^::ffff:192\.0\.2\.1$`, `^::ffff:192\.0\.2\.1$`},
		{Syntax{}, `^2001:db8:.*$`, ``},
		{Syntax{}, `2001:db8::1`, ``},
		{Syntax{Language: expression.Fnmatch}, `2001:db8::1`, `^2001:db8::1$`},
		// Not a white list of hosts.
		{Syntax{DefaultAllow: true}, `bank`, `bank`},
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

// Strings of what may stand between "//" and "/" in a request. Those with anything but HostClass are no host names.
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
	parts := map[expression.Language][]string{
		expression.Basic: strings.Fields(`a b bank example \. \. . [ab] [^a] [^.] [[:alnum:]] [a-c] .* * \+ \? \{1,2\} \(a\|b\) \( \) ` +
			`\| ^ $ \b \w \W \< x - _ % # [^[:alpha:]] [B-D] [!-~]`),
		expression.Extended: strings.Fields(`a b bank example \. \. . [ab] [^a] [^.] [[:alnum:]] [a-c] .* * + ? {1,2} (a|b) ( ) | ^ $ ` +
			`\b \w \W \< x - _ % # [^[:upper:]] [B-D] [!-~]`),
		expression.Fnmatch: strings.Fields(`a b bank example . . * ? [ab] [!a] [^.] [[:alnum:]] [a-c] x - _ % # \* [B-D] [!-~]`),
	}
	names := []string{"bank.example", "www.bank.example", "a.b.bank.example", "BANK.EXAMPLE", "xbank.example", "bankxexample",
		"a", "ab", "a.b", "x", "b-a", "_a.x", "A.b", "bank.example.", "bank", "abank", "C", "192.0.2.1"}
	open, asURLs, rounds := 0, 0, 60
	for round := range rounds {
		s := syntaxes[round%len(syntaxes)]
		var lines []string
		for len(lines) < 3 { // in one process
			pattern := ""
			if random.IntN(3) == 0 {
				pattern = [][]string{expression.Basic: {"", "^.*", `\.`, ".*", "^"}, expression.Extended: {"", "^.*", "(^|x)", "^(x|)", "^[^.]*"},
					expression.Fnmatch: {"", "*", "*.", "?", "[!a]*"}}[s.Language][random.IntN(5)] +
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
		fresh, err := start(t, s.Compiled(), staged(compiled))
		if err != nil {
			t.Errorf("%q under %+v became %q: %v", raw, s, staged(compiled), err)
			continue
		}
		urls, whole := inURLs(t, s.Compiled(), compiled)
		if whole {
			asURLs++
		}
		for _, name := range names {
			if whole {
				for method, form := range map[string]string{"GET": "http://%s/", "get": "http://%s", "HEAD": "http://%s:81/a?b", "CONNECT": "%s:443"} {
					status := urls.Status(strings.ToUpper(method), strings.Replace(form, "%s", name, 1))
					if (status == 200) != fresh.Permits(name) {
						t.Errorf("%q is not compared with %s as with %s: %d", staged(compiled), form, name, status)
					}
				}
			}
			if old.Permits(name) != fresh.Permits(name) {
				t.Errorf("%q under %+v became %q, which permits %s: %v", raw, s, staged(compiled), name, fresh.Permits(name))
			}
		}
		for range 20 {
			host := oddHosts[random.IntN(len(oddHosts))]
			if old.Permits(host) {
				open++
			}
			if fresh.Permits(host) || urls != nil && urls.Status("GET", "http://"+host+"/") == 200 {
				t.Errorf("%q under %+v became %q, which permits %q", raw, s, staged(compiled), host)
			}
		}
	}
	if asURLs < rounds/2 {
		t.Errorf("only %d of %d lists could be compared with URLs", asURLs, rounds)
	}
	if open < 50 {
		t.Errorf("only %d of what is no host name passed lines as they are written", open)
	}
}

// inURLs is a tinyproxy that compares compiled lines with URLs, and whether it has all of them.
func inURLs(t *testing.T, s Syntax, compiled []Line) (p *rulestest.Proxy, whole bool) {
	t.Helper()
	var lines []Line
	refused := 0
	for _, l := range compiled {
		if text, flaw := expression.OfURL(l.Text, s.CaseSensitive); flaw == nil && text != "" {
			lines = append(lines, Line{Text: text})
		} else if flaw != nil {
			refused++
		}
	}
	p, err := rulestest.Start(t, func(v rulestest.Values) string {
		return Builtin().Render(Values(v)) + rulestest.Directives(s.Language, s.CaseSensitive) + "FilterURLs Yes\n"
	}, staged(lines))
	must(t, err)
	return p, refused == 0
}
