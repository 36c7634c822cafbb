package propose

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// listOf returns a list with this content.
func listOf(t *testing.T, content string, s rules.Syntax) List {
	t.Helper()
	file, err := rules.ParseFile("bank.10.137.23.2", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return List{File: file, Syntax: s, Ports: []uint16{443}}
}

// asked reads hosts as HOST[:PORT], or HOST[:PORT]=PURPOSE for what browsers ask for by themselves.
func asked(words ...string) (hosts []Host) {
	for i, word := range words {
		name, purpose, _ := strings.Cut(word, "=")
		h := Host{Name: name, Port: 443, Count: i + 1, First: noon, Last: noon.Add(time.Duration(i) * time.Minute), Browser: purpose}
		if host, port, found := strings.Cut(name, ":"); found {
			h.Name = host
			fmt.Sscan(port, &h.Port)
		}
		hosts = append(hosts, h)
	}
	return hosts
}

const names = "#: format domains\n"

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		name, list string
		asked      []Host
		want       string
	}{
		{"one host", names, asked("bank.example"), `
			SITE          LINE          COUNT  NOTE
			bank.example  bank.example  1`},
		{"a wildcard where several hosts of one site were seen", names,
			asked("www.bank.example", "bank.example", "api.bank.example", "shop.example", "www.shop.example"), `
			SITE          LINE              COUNT  NOTE
			bank.example  api.bank.example  3
			              bank.example      2
			              www.bank.example  1
			              *.bank.example    4      instead of the hosts; also permits a.bank.example
			shop.example  shop.example      4
			              www.shop.example  5`},
		{"the narrowest wildcard", names, asked("a.cdn.bank.example", "b.cdn.bank.example", "x.cdn.shop.example", "xcdn.shop.example"), `
			SITE          LINE                COUNT  NOTE
			bank.example  a.cdn.bank.example  1
			              b.cdn.bank.example  2
			              *.cdn.bank.example  3      instead of the hosts; also permits c.cdn.bank.example
			shop.example  x.cdn.shop.example  3
			              xcdn.shop.example   4
			              *.shop.example      7      instead of the hosts; also permits a.shop.example`},
		{"owners below a public suffix are apart", names, asked("a.github.io", "b.github.io", "x.example.co.uk", "example.co.uk"), `
			SITE           LINE             COUNT  NOTE
			a.github.io    a.github.io      1
			b.github.io    b.github.io      2
			example.co.uk  example.co.uk    4
			               x.example.co.uk  3`},
		{"what the list permits needs no line", names + "bank.example\n*.shop.example\nport.example:8443\n",
			asked("bank.example", "BANK.example.", "a.shop.example", "bank.example:8443", "bank.example:22", "shop.example"), `
			SITE          LINE             COUNT  NOTE
			bank.example  bank.example:22  5      opens port 22 for the whole list
			shop.example  shop.example     6`},
		{"a list of patterns", "^www\\.bank\\.example$\n", asked("www.bank.example", "a.bank.example", "c.bank.example"), `
			SITE          LINE            COUNT  NOTE
			bank.example  a.bank.example  2
			              c.bank.example  3
			              *.bank.example  5      instead of the hosts; also permits b.bank.example`},
		{"one host in two spellings and at two ports", names, asked("Bank.Example.", "bank.example", "bank.example:8443"), `
			SITE          LINE               COUNT  NOTE
			bank.example  bank.example       3
			              bank.example:8443  3      opens port 8443 for the whole list`},
		{"what browsers ask for by themselves is apart, and has no wildcard", names, asked("a.moz.example=updates", "b.moz.example=\x1b[2J", "www.moz.example"), `
			SITE         LINE             COUNT  NOTE
			moz.example  www.moz.example  3
			moz.example  a.moz.example    1      by itself: updates
			             b.moz.example    2      by itself: "\x1b[2J"`},
		{"addresses", names, []Host{{Name: "192.0.2.1", Count: 1}, {Name: "[2001:db8::1]", Count: 1}, {Name: "2001:db8::1", Port: 8443, Count: 1}}, `
			SITE         LINE                COUNT  NOTE
			192.0.2.1    192.0.2.1           1
			2001:db8::1  [2001:db8::1]       1
			             [2001:db8::1]:8443  1      opens port 8443 for the whole list`},
		{"a service of many owners has no wildcard", names, asked("a.b.s3.amazonaws.com", "c.d.s3.amazonaws.com"), `
			SITE                LINE                  COUNT  NOTE
			b.s3.amazonaws.com  a.b.s3.amazonaws.com  1
			d.s3.amazonaws.com  c.d.s3.amazonaws.com  2`},
		{"nothing", names, nil, ``},
		{"names that are none", names, []Host{{Name: "\x1b]0;evil\a"}, {Name: "a b"}, {Name: "*.bank.example"}, {Name: "localhost"}, {Name: "co.uk"},
			{Name: `\x1b[2J`}, {Name: "http://bank.example/"}, {Name: "127.0.0.1"}, {Name: "#: egress 10.0.0.0/8"}, {Name: "a.example\nb.example"},
			{Name: ""}, {Name: "a.example:22"}, {Name: "0x7f.1"}, {Name: strings.Repeat("a", 300) + ".example"}, {Name: "[::1"}}, `
			not proposed: : it is not a host name
			not proposed: "\x1b]0;evil\a": it is not a host name
			not proposed: #: egress 10.0.0.0/8: it is not a host name
			not proposed: *.bank.example: it is not one host
			not proposed: 0x7f.1: it is not a host name
			not proposed: 127.0.0.1: 127.0.0.1 is the firewall VM itself, where no proxy leads; name the host that is meant
			not proposed: [::1: it is not a host name
			not proposed: \x1b[2J: it is not a host name
			not proposed: a b: it is not a host name
			not proposed: "a.example\nb.example": it is not a host name
			not proposed: a.example:22: it is not a host name
			not proposed: ` + strings.Repeat("a", 300) + `.example: it is not a host name
			not proposed: co.uk: co.uk is a public suffix: below it anybody can have a name; name a host below it
			not proposed: http://bank.example/: it is not a host name
			not proposed: localhost: localhost is the firewall VM itself, where no proxy leads; name the host that is meant`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Of(listOf(t, tt.list, rules.Syntax{}), tt.asked).Text()
			want := strings.ReplaceAll(strings.TrimPrefix(tt.want, "\n"), "\t\t\t", "")
			if strings.TrimSuffix(got, "\n") != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAccept(t *testing.T) {
	p := Of(listOf(t, names, rules.Syntax{}), asked("www.bank.example", "api.bank.example", "shop.example", "moz.example=updates", "a.bank.example=news"))
	for words, want := range map[string]string{
		"all":                             "api.bank.example www.bank.example shop.example",
		"bank.example":                    "api.bank.example www.bank.example",
		"*.bank.example shop.example all": "*.bank.example shop.example api.bank.example www.bank.example",
		"www.bank.example bank.example":   "www.bank.example api.bank.example",
		"moz.example":                     "moz.example",
		"a.bank.example":                  "a.bank.example",
		"":                                "",
	} {
		lines, err := p.Accept(strings.Fields(words))
		var got []string
		for _, l := range lines {
			got = append(got, l.Text)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v, want %q", words, got, err, want)
		}
	}
	for words, want := range map[string]string{
		"evil.example":     "evil.example is not proposed; these sites are: bank.example, shop.example, moz.example",
		"\x1b[2J":          `"\x1b[2J" is not proposed; these sites are: bank.example, shop.example, moz.example`,
		"all *.":           "*. is not proposed; these sites are: bank.example, shop.example, moz.example",
		"*.shop.example":   "*.shop.example is not proposed; these sites are: bank.example, shop.example, moz.example",
		"WWW.bank.example": "WWW.bank.example is not proposed; these sites are: bank.example, shop.example, moz.example",
	} {
		if lines, err := p.Accept(strings.Fields(words)); err == nil || err.Error() != want || lines != nil {
			t.Errorf("%q: %v, %v, want %q", words, lines, err, want)
		}
	}
	var none Proposal
	if _, err := none.Accept([]string{"all"}); err == nil || err.Error() != "all is not proposed; nothing is" {
		t.Error(err)
	}
}

// With all that is proposed, a list permits what was asked for and, but for wildcards, nothing else; and a wildcard permits its witness,
// for which nobody asked.
func TestProposalsPermitWhatWasAskedFor(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	labels := []string{"a", "b", "www", "cdn", "x-1", "_y", "com", "github", "io"}
	name := func() string {
		var parts []string
		for range 1 + random.IntN(4) {
			parts = append(parts, labels[random.IntN(len(labels))])
		}
		return strings.Join(append(parts, []string{"example", "co.uk", "com"}[random.IntN(3)]), ".")
	}
	for range 300 {
		s := rules.Syntax{Language: []expression.Language{expression.Basic, expression.Extended, expression.Fnmatch}[random.IntN(3)],
			CaseSensitive: random.IntN(2) == 0}
		content := []string{names, "", names + name() + "\n*." + name() + "\n"}[random.IntN(3)]
		list := listOf(t, content, s)
		var hosts []Host
		for range random.IntN(30) {
			hosts = append(hosts, asked(name())...)
		}
		p := Of(list, hosts)
		all, err := p.Accept([]string{All})
		if err != nil && len(p.Sites) > 0 {
			t.Fatal(err)
		}
		before, after := list.matcher(nil), list.matcher(hostsOf(all))
		for _, h := range hosts {
			left := slices.ContainsFunc(p.LeftOut, func(l LeftOut) bool { return l.Host == h.Name })
			if passes, _ := after.Permits(h.Name); passes == left {
				t.Fatalf("%q with %q: %s passes: %v", content, hostsOf(all), h.Name, passes)
			}
		}
		for _, site := range p.Sites {
			if site.Wildcard == nil {
				continue
			}
			witness := site.Wildcard.Admits
			wide := list.matcher(hostsOf([]Line{*site.Wildcard}))
			for what, m := range map[string]struct {
				*match.Matcher
				want bool
			}{"the wildcard": {wide, true}, "the list": {before, false}, "the hosts": {after, false}} {
				if passes, _ := m.Permits(witness); passes != m.want {
					t.Fatalf("%q: %s permits %q: %v", content, what, witness, passes)
				}
			}
		}
	}
}

func hostsOf(lines []Line) (hosts []rules.Host) {
	for _, l := range lines {
		hosts = append(hosts, l.Host)
	}
	return hosts
}

// No word accepts what a ceiling does not admit, and the table says why.
func TestBeyondACeiling(t *testing.T) {
	list := listOf(t, names, rules.Syntax{})
	list.MayAllow = func(hosts ...rules.Host) error {
		if host := hosts[0].String(); host != "www.bank.example" && host != "shop.example" {
			return fmt.Errorf("%s is beyond the ceiling", host)
		}
		return nil
	}
	p := Of(list, asked("www.bank.example", "api.bank.example", "shop.example", "shop.example:8443", "moz.example=updates"))
	for word, want := range map[string]string{"all": "www.bank.example shop.example", "bank.example": "www.bank.example", "shop.example": "shop.example",
		"*.bank.example": "*.bank.example is beyond the ceiling", "shop.example:8443": "shop.example:8443 is beyond the ceiling", "moz.example": "moz.example is beyond the ceiling"} {
		lines, err := p.Accept([]string{word})
		var got []string
		for _, l := range lines {
			got = append(got, l.Text)
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
	if text := p.Text(); strings.Count(text, "is beyond the ceiling") != 4 {
		t.Error(text)
	}
}
