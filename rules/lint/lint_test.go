package lint

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
)

// report prints findings as the tests below expect them: LINE:COL+WIDTH problem → better (admits).
func report(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%d:%d+%d %s", f.Line, f.Col, f.Width, f.Problem)
		if f.Better != nil {
			fmt.Fprintf(&b, " → %s", strings.Join(f.Better, " "))
		}
		if f.Admits != "" {
			fmt.Fprintf(&b, " (%s)", f.Admits)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestFindings(t *testing.T) {
	const notNames = `: it is read as a pattern, as the file does not begin with "#: format domains"`
	const (
		anywhere = "matches anywhere in a name: it is not anchored"
		ending   = "matches the end of other names too: the beginning is not anchored"
		starting = "matches the beginning of other names too: there is no $ at the end"
		more     = "stands for more than host names; vifproxy lets nothing else pass, so write that"
		dot      = `this character stands for any one: a dot is written \.`
	)
	basic, extended, glob := Linter{}, Linter{Syntax: rules.Syntax{Language: expression.Extended}}, Linter{Syntax: rules.Syntax{Language: expression.Fnmatch}}
	for _, tt := range []struct {
		check         Linter
		content, want string
	}{
		{basic, "# fine\n^www\\.bank\\.com$\n^[a-zA-Z0-9._-]*\\.bank\\.com$ # all\n^api[0-9]*\\.shop\\.com$\n^localhost$\n^2001:db8::1$\n",
			"2:1+16 adds nothing to line 3\n"},
		{basic, "\\.bank\\.com$\n^.*\\.b\\.com$\n^[^.]*\\.c\\.com$\n^\\([^a]\\)\\.c\\.com$",
			"1:1+12 " + more + " → ^[a-zA-Z0-9._-]*\\.bank\\.com$\n2:1+12 " + more + " → ^[a-zA-Z0-9._-]*\\.b\\.com$\n" +
				"3:1+15 " + more + " → ^[a-z0-9_-]*\\.c\\.com$\n4:1+18 " + more + "\n"},
		{extended, `(^|\.)bank\.com$`, "1:1+16 " + more + ` → ^[a-zA-Z0-9._-]*(^|\.)bank\.com$`},
		{basic, `^bank\.com/x$`, "1:11+1 no host name has this character"},
		{basic, `*.bank.com`, "1:1+10 matches no host" + notNames},
		{basic, `https://pay.example/`, "1:1+20 matches no host" + notNames},
		{basic, `bank.example`, "1:1+12 matches anywhere in a name" + notNames + " (evil-bankxexample.evil.example)"},
		{basic, "# format domains\nbank.example", "1:1+16 is a comment, and says nothing of the format → #: format domains\n" +
			"2:1+12 matches anywhere in a name" + notNames + " (evil-bankxexample.evil.example)"},
		{basic, "#: format patterns\nbank.example", "2:1+12 matches anywhere in a name: it is not anchored (evil-bankxexample.evil.example)\n" +
			"2:5+1 this character stands for any one: a dot is written \\. (evil-bankxexample.evil.example)"},
		{basic, "#: format domain\nbank.example\n*.bank.example", `1:11+1 unknown directive "#: format domain" → #: format domains`},
		{basic, "#: format domains\nhttps://bank.example/login # the bank\na.example, b.example\n.c.example\nd.example:8443",
			"2:0+1 \"https://bank.example/login\" is not a host name → bank.example\n" +
				"3:11+1 more than one name in \"a.example, b.example\" → a.example b.example\n" +
				"4:0+1 \".c.example\" is not a host name\n"},
		{basic, `^2001:db8:.*$`, "1:6+1 no host name has this character"},
		{basic, `bank\.com`, "1:1+9 " + anywhere + ` → ^bank\.com$ ^[a-zA-Z0-9._-]*\.bank\.com$ (evil-bank.com.evil.example)`},
		{basic, `bank\.com$`, "1:1+10 " + ending + ` → ^bank\.com$ ^[a-zA-Z0-9._-]*\.bank\.com$ (evil-bank.com)`},
		{basic, `.*bank\.com$`, "1:1+12 " + ending + ` → ^bank\.com$ ^[a-zA-Z0-9._-]*\.bank\.com$ (evil-bank.com)`},
		{basic, `^bank\.com`, "1:10+1 " + starting + ` → ^bank\.com$ (bank.com.evil.example)`},
		{basic, `^cdn\.`, "1:6+1 " + starting},
		{basic, `^bank[.]com`, "1:11+1 " + starting + ` → ^bank\.com$ (bank.com.evil.example)`},
		{basic, `  ^www.bank\.com$  # why`, "1:7+1 " + dot + ` → ^www\.bank\.com$ (wwwxbank.com)`},
		{basic, `.bank\.com$`, "1:1+1 " + dot + ` → ^[a-zA-Z0-9._-]*\.bank\.com$ (evilxbank.com)`},
		{basic, `^(a|b)\.bank\.com$`, "1:2+1 '(' is a character like any other in a basic regular expression: no host has it" +
			` → ^a\.bank\.com$ ^b\.bank\.com$`},
		{extended, `^(a|b)\.bank\.com$`, ""},
		{extended, `^a\.com|b\.com$`, `1:1+15 "^a\.com" ` + starting + ` → ^a\.com$ ^b\.com$ ^[a-zA-Z0-9._-]*\.b\.com$ (a.com.evil.example)`},
		{basic, `\.co\.uk$`, "1:1+9 admits every host below co.uk, where anybody can have one (evil.co.uk)"},
		{basic, ".*", "1:1+2 admits every host (evil.example)"},
		{basic, "^a\\.com$\n^b\\.com$\n^a\\.com$ # again", "3:1+8 says the same as line 1\n"},
		{basic, "^a[.]com$\n^a\\.com$", "2:1+8 adds nothing to line 1\n"},
		{basic, "^a\\.com $\n^b\n\x01", "1:8+1 white space inside " + `"^a\.com $"; tinyproxy would cut it to "^a\.com"` +
			" → ^a\\.com$\n2:2+1 " + starting + " (b.evil.example)\n3:1+1 the invisible character '\\x01'\n"},
		{basic, "#: format domains\n*.A.example\nb.a.example\n*.com\nb.a.EXAMPLE # x\nx y",
			"3:1+11 adds nothing to line 2\n4:1+5 admits every host below com, where anybody can have one (evil.com)\n" +
				"5:1+11 says the same as line 3\n6:2+1 more than one name in \"x y\"\n"},
		{glob, "*bank.com\nwww.bank.*\n*.shop.com\n*", "1:1+9 " + ending + " → bank.com *.bank.com (evil-bank.com)\n" +
			"2:10+1 matches the beginning of other names too: it ends with *\n4:1+1 admits every host (evil.example)\n"},
		{Linter{Syntax: rules.Syntax{DefaultAllow: true}}, "bank.com\n^a$\n^a$", "3:1+3 says the same as line 2\n"},
		{Linter{Syntax: rules.Syntax{URLs: true}}, `bank.com`, ""},
	} {
		want := tt.want
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got := report(tt.check.File(somePath, []byte(tt.content))); got != want {
			t.Errorf("%s\ngives\n%swant\n%s", tt.content, got, want)
		}
	}
	if got := report(basic.File("/x/config.bak", nil)); got != "0:0+1 is not named like a rule file\n" {
		t.Errorf("got %s", got)
	}
	want := "1:6+1 unknown placeholder \"{prot}\"\n2:1+1 a single \"}\"\n0:0+1 the placeholder {port} is not used\n" +
		"0:0+1 the placeholder {bind_ip} is not used\n0:0+1 the placeholder {rules_file} is not used\n0:0+1 FilterDefaultDeny is not said\n"
	if got := report(basic.Template("/x/config", "Port {prot}\n}\n")); got != want {
		t.Errorf("template: got %swant %s", got, want)
	}
}

func TestFixKeepsWhatPeopleWrote(t *testing.T) {
	before := "\ufeff# mine\r\n\r\n  bank.com\t# the bank\r\n^www\\.bank\\.com$ # covered\r\n^cdn\\.\r\n^x\\.com $\r\n^x\\.com$"
	want := "\ufeff# mine\r\n\r\n  ^bank\\.com$\t# the bank\r\n^[a-zA-Z0-9._-]*\\.bank\\.com$\r\n# covered\r\n^cdn\\.\r\n^x\\.com$\r\n"
	if got := string(Linter{}.Fix(somePath, []byte(before))); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

var lintHosts = []string{"bank.com", "www.bank.com", "a.b.bank.com", "evil-bank.com", "bank.com.evil.example", "bankxcom",
	"wwwxbank.com", "b.com", "xb.com", "a.com", "a.com.b.com", "com", "x", "shop.co.uk", "WWW.bank.com", "co.uk", "^a.com"}

// What can be but one name is written as such, and its comment stays; a port is not taken away in silence.
func TestFixOfNames(t *testing.T) {
	before := "#: format domain\nhttps://bank.example/login # the bank\na.example b.example\nd.example:8443\n"
	want := "#: format domains\nbank.example # the bank\na.example\nb.example\nd.example:8443\n"
	if got := string(Linter{}.Fix(somePath, []byte(before))); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	before = "# format domains\nbank.example\n"
	if got := string(Linter{}.Fix(somePath, []byte(before))); got != before {
		t.Errorf("what may be names or patterns became %q", got)
	}
}

// Each example of a host that a line admits, the line does admit.
func TestExamplesAreAdmitted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 5))
	parts := strings.Fields(`bank com Bank . \. \. www a A b [.] [ab] [^.] .* * ^ $ \(a\) (a|b) | co.uk b\.com - _ \- \_ \/ \x \B \w + ? \+ {2} \{2\}`)
	examples := 0
	for range 20_000 {
		l := Linter{Syntax: syntaxes[random.IntN(len(syntaxes))]}
		pattern := ""
		for range 1 + random.IntN(7) {
			pattern += parts[random.IntN(len(parts))]
		}
		f, err := rules.ParseFile(somePath, []byte(pattern+"\n"))
		if err != nil {
			continue
		}
		lines, err := f.Lines(l.Syntax)
		if err != nil {
			continue // the daemon refuses the list
		}
		var texts []string
		for _, line := range lines {
			texts = append(texts, line.Text)
		}
		for _, found := range l.Parsed(f) {
			if found.Admits == "" {
				continue
			}
			examples++
			if _, admitted := match.New(texts, l.Compiled()).Match(found.Admits); !admitted {
				t.Errorf("%s under %+v does not admit %s", pattern, l.Syntax, found.Admits)
			}
		}
	}
	if examples < 800 {
		t.Errorf("only %d examples were tried", examples)
	}
}

// Patterns are written as people write them, at random. A real tinyproxy says what they admit: each example that a finding
// gives must be admitted, and no correction may admit more than the pattern did.
func TestFindingsInTinyproxy(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 5))
	parts := strings.Fields(`bank com . \. . \. www a b [.] [ab] .* * ^ $ \(a\) (a|b) | co.uk b\.com -`)
	examples, corrections := 0, 0
	for round := range 240 {
		c := Linter{Syntax: syntaxes[round%len(syntaxes)]}
		pick := func(from ...string) string { return from[random.IntN(len(from))] }
		pattern := pick("^", "", ".*", "^.*", `\.`, ".", "*") // and then a name, or anything
		if round%3 > 0 {
			pattern += pick("", "www", "a") + pick("", `\.`, ".", "[.]") + pick("bank", "b", "a") + pick(`\.`, ".", "?") + "com"
		} else {
			for range 1 + random.IntN(5) {
				pattern += pick(parts...)
			}
		}
		pattern += pick("$", "$", "", ".*", "*")
		hosts := slices.Clone(lintHosts)
		found := c.File(somePath, []byte(pattern))
		for _, f := range found {
			if f.Admits != "" {
				hosts = append(hosts, f.Admits)
			}
		}
		old, err := start(t, c.Syntax, []byte(pattern+"\n"))
		if err != nil {
			continue // a bad regex
		}
		for _, host := range hosts[len(lintHosts):] {
			if examples++; !old.Permits(host) {
				t.Errorf("%s under %+v does not admit %s", pattern, c, host)
			}
		}
		fixed := c.Fix(somePath, []byte(pattern))
		if string(fixed) == pattern {
			continue
		}
		corrections++
		fresh, err := start(t, c.Syntax, append(fixed, '\n'))
		if err != nil {
			t.Errorf("%s became %s: %v", pattern, fixed, err)
			continue
		}
		for _, host := range hosts {
			if fresh.Permits(host) && !old.Permits(host) {
				t.Errorf("%s under %+v became %s, which admits %s", pattern, c, fixed, host)
			}
		}
	}
	if examples < 30 || corrections < 20 {
		t.Errorf("only %d examples and %d corrections were tried", examples, corrections)
	}
}

// FuzzFix: what comes out of --fix is a rule file, unless it could not be one before; is nothing that --fix would change; and
// admits no host that the file did not, if tinyproxy had read that as it stands.
func FuzzFix(f *testing.F) {
	for i, seed := range []string{"bank.com\n^www\\.bank\\.com$\n", "^a\\.com $\r\n# c\r\n", "#: format domains\n*.a.com\nb.a.com # x",
		"a\\.com|^b.com$", "*bank.com", "\ufeffa.com", ".*", "^a\\.com$\n^a\\.com$ #"} {
		f.Add([]byte(seed), byte(i))
	}
	f.Fuzz(func(t *testing.T, content []byte, syntax byte) {
		c := Linter{Syntax: syntaxes[int(syntax)%len(syntaxes)]}
		fixed := c.Fix(somePath, content)
		for _, found := range c.File(somePath, fixed) {
			if found.Fixable {
				t.Fatalf("%q became %q, in which this is left: %+v", content, fixed, found)
			}
		}
		refused := slices.ContainsFunc(c.File(somePath, fixed), func(f Finding) bool { return f.Refused })
		file, err := rules.ParseFile(somePath, fixed)
		if err == nil && !file.Names() {
			_, err = file.Lines(c.Syntax)
		}
		if (err != nil) != refused {
			t.Fatalf("%q became %q: %v", content, fixed, err)
		}
		if err != nil || len(fixed) == len(content) {
			return
		}
		lines, err := file.Lines(c.Syntax)
		if err != nil {
			return
		}
		before := bytes.TrimPrefix(content, []byte("\ufeff")) // of names, tinyproxy never reads the file itself
		if file.Names() {
			if file, err = rules.ParseFile(somePath, content); err != nil {
				return
			}
			all, err := file.Lines(c.Syntax)
			must(t, err)
			before = staged(all)
		}
		old, err := start(t, c.Syntax, before)
		if err != nil {
			return
		}
		fresh, err := start(t, c.Syntax, staged(lines))
		must(t, err)
		for _, host := range lintHosts {
			if fresh.Permits(host) && !old.Permits(host) {
				t.Errorf("%q became %q, which admits %s", content, fixed, host)
			}
		}
	})
}
