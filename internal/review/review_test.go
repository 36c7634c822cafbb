package review

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/check"
	"vifproxy/internal/policy"
	"vifproxy/rules"
)

const path = "bank.10.137.31.2"

var today = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// input returns the input for a list, and what was counted: "HOST" or "HOST…" for one that is among many, each once.
func input(t *testing.T, content string, counted time.Duration, hosts ...string) Input {
	t.Helper()
	file, err := rules.ParseFile(path, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	template, err := rules.ParseTemplate("config", "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nFilterDefaultDeny Yes\nConnectPort 443\n")
	if err != nil {
		t.Fatal(err)
	}
	in := Input{VM: "bank", File: file, Template: template, Enough: 24 * time.Hour}
	in.Uses = []control.ListUse{{VM: "bank", Path: path, Begun: today, Counted: int64(counted / time.Second), Lines: usesOf(t, in, counted, hosts)}}
	return in
}

// usesOf returns what the daemon would have counted.
func usesOf(t *testing.T, in Input, counted time.Duration, hosts []string) (uses []control.LineUse) {
	t.Helper()
	p, err := policy.New(in.File, nil, in.Template, policy.Input{Bind: netip.IPv4Unspecified()})
	if err != nil {
		t.Fatal(err)
	}
	m := p.Matcher()
	for _, r := range p.Rules {
		uses = append(uses, control.LineUse{Path: path, Pattern: r.Text, Counted: int64(counted / time.Second)})
	}
	for _, text := range hosts {
		host, more := strings.CutSuffix(text, "…")
		for _, i := range m.Lines(host, 100) {
			uses[i].Count++
			uses[i].Last = today
			if uses[i].More = uses[i].More || more; !more {
				uses[i].Hosts = append(uses[i].Hosts, control.HostUse{Host: host, Count: 1, Last: today})
			}
		}
	}
	return uses
}

func TestOf(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, tt := range []struct {
		name, list string
		counted    time.Duration
		hosts      string
		want       string // a line each: number, finding, by, what it loses, instead
	}{
		{"each line is needed", "bank.example\nwww.bank.example\n", week, "bank.example www.bank.example", ""},
		{"unused", "bank.example\nold.example\n*.old.example\n", week, "bank.example", "3 unused old.example\n4 unused a.old.example"},
		{"not counted for long", "bank.example\nold.example\n", time.Hour, "bank.example", "3 unused old.example early"},
		{"covered", "www.bank.example\n*.bank.example\nbank.example\nbank.example\n", week, "bank.example www.bank.example x.bank.example",
			"2 covered by 3\n3 wide a.bank.example: www.bank.example x.bank.example\n5 covered by 4"},
		{"a port is not covered", "*.git.example\nwww.git.example:22\n", week, "www.git.example", "2 unused a.git.example"},
		{"a port that is open anyway", "#: port 22\n*.git.example\nwww.git.example:22\n", week, "www.git.example x.git.example",
			"3 wide a.git.example: www.git.example x.git.example\n4 covered by 3"},
		{"wide", "*.bank.example\n", week, "www.bank.example cdn.bank.example", "2 wide a.bank.example: cdn.bank.example www.bank.example"},
		{"wide, not counted for long", "*.bank.example\n", time.Hour, "www.bank.example", "2 wide a.bank.example early: www.bank.example"},
		{"with a port", "*.git.example:22\n", week, "www.git.example", "2 wide a.git.example: www.git.example:22"},
		{"more hosts than are remembered", "*.bank.example\ncdn.bank.example\n", week, "www.bank.example… cdn.bank.example", "3 covered by 2"},
		{"only another line needs it", "*.bank.example\n*.cdn.bank.example\n", week, "www.bank.example", "2 wide a.bank.example: www.bank.example\n3 covered by 2"},
		{"patterns", "#: format patterns\n^[ab]\\.bank\\.example$\n^a\\.bank\\.example$\n^b\\.bank\\.example$\nshop\\.example$\n^\\(c\\)\\.example$\n", week,
			"a.bank.example www.shop.example c.example", "3 covered by 2\n4 covered by 2\n2 wide b.bank.example: ^a\\.bank\\.example$\n5 wide shop.example: ^www\\.shop\\.example$"},
		{"several lines cover one", "#: format patterns\n^a\\.bank\\.example$\n^b\\.bank\\.example$\n^[ab]\\.bank\\.example$\n", week, "a.bank.example b.bank.example", "4 covered by 0"},
		{"a narrower wildcard", "*.bank.example\n", week, "a.cdn.bank.example b.cdn.bank.example",
			"2 wide a.bank.example: a.cdn.bank.example b.cdn.bank.example or *.cdn.bank.example admits c.cdn.bank.example loses a.bank.example"},
		{"a narrower wildcard at a port", "*.bank.example:22\n", week, "a.cdn.bank.example b.x.cdn.bank.example",
			"2 wide a.bank.example: a.cdn.bank.example:22 b.x.cdn.bank.example:22 or *.cdn.bank.example:22 admits b.cdn.bank.example loses a.bank.example"},
		{"a wildcard for each site", "#: format patterns\nexample$\n", week,
			"a.cdn.bank.example b.cdn.bank.example bank.example www.shop.example api.shop.example one.example.org.example",
			"2 wide example: ^a\\.cdn\\.bank\\.example$ ^api\\.shop\\.example$ ^b\\.cdn\\.bank\\.example$ ^bank\\.example$ ^one\\.example\\.org\\.example$ ^www\\.shop\\.example$" +
				" or ^[a-zA-Z0-9._-]*\\.cdn\\.bank\\.example$ ^bank\\.example$ ^[a-zA-Z0-9._-]*\\.shop\\.example$ ^one\\.example\\.org\\.example$ admits a.shop.example loses example"},
		{"more hosts than people read", "*.bank.example\n", week, many("cdn.bank.example"),
			"2 wide a.bank.example:  or *.cdn.bank.example admits a.cdn.bank.example loses a.bank.example"},
		{"more hosts than people read, and no narrower wildcard", "*.bank.example\n", week, many("bank.example"), ""},
		{"a wildcard would permit more than the line", "#: format patterns\n^[abc]\\.bank\\.example$\n", week, "a.bank.example b.bank.example",
			"2 wide c.bank.example: ^a\\.bank\\.example$ ^b\\.bank\\.example$"},
		{"a wildcard beside a line for one of its hosts", "*.bank.example\na.cdn.bank.example\nb.cdn.bank.example\n", week,
			"a.cdn.bank.example b.cdn.bank.example c.cdn.bank.example d.cdn.bank.example",
			"2 wide a.bank.example: a.cdn.bank.example b.cdn.bank.example c.cdn.bank.example d.cdn.bank.example or *.cdn.bank.example admits e.cdn.bank.example loses a.bank.example\n" +
				"3 covered by 2\n4 covered by 2"},
		{"what another line permits is not admitted", "#: format patterns\n^[a-zA-Z0-9._-]*\\.bank\\.example$\n^c\\.cdn\\.[bx]ank\\.example$\n", week,
			"a.cdn.bank.example b.cdn.bank.example c.cdn.xank.example",
			"2 wide a.bank.example: ^a\\.cdn\\.bank\\.example$ ^b\\.cdn\\.bank\\.example$ or ^[a-zA-Z0-9._-]*\\.cdn\\.bank\\.example$ admits d.cdn.bank.example loses a.bank.example"},
		{"addresses", "#: format domains\n203.0.113.7\n203.0.113.8\n", week, "203.0.113.7", "3 unused 203.0.113.8"},
		{"nothing", "", week, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.HasPrefix(tt.list, "#: format") {
				tt.list = "#: format domains\n" + tt.list
			}
			in := input(t, tt.list, tt.counted, strings.Fields(tt.hosts)...)
			r, err := Of(in)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range r.Lines {
				switch early := map[bool]string{true: " early"}[l.Early]; l.Finding {
				case Covered:
					got = append(got, fmt.Sprintf("%d covered by %d", l.Number, l.By))
				case Unused:
					got = append(got, fmt.Sprintf("%d unused %s%s", l.Number, l.Loses, early))
				case Wide:
					text := fmt.Sprintf("%d wide %s%s: %s", l.Number, l.Loses, early, strings.Join(l.Instead, " "))
					if w := l.Wildcards; w != nil {
						text += fmt.Sprintf(" or %s admits %s loses %s", strings.Join(w.Lines, " "), w.Admits, w.Loses)
					}
					got = append(got, text)
				}
			}
			want := strings.Split(tt.want, "\n")
			if tt.want == "" {
				want = nil
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			fixed(t, in, r, strings.Fields(tt.hosts))
		})
	}
}

// many returns more hosts below a domain than one line is replaced by.
func many(domain string) string {
	var all []string
	for i := range narrowerMax + 1 {
		all = append(all, fmt.Sprintf("n%d.%s", i, domain))
	}
	return strings.Join(all, " ")
}

// fixed checks that what is written permits all that was used, and no more than before, and that nothing is found a second time.
func fixed(t *testing.T, in Input, r Report, hosts []string) {
	t.Helper()
	content := []byte{}
	for _, line := range r.Lines {
		for len(strings.Split(string(content), "\n")) < line.Number {
			content = append(content, '\n')
		}
		content = append(content, line.Text+"\n"...)
	}
	for _, narrow := range []Narrowing{KeepWide, ToHosts, ToWildcards} {
		changed, err := r.Fix(content, narrow, today)
		if err != nil {
			t.Fatal(err)
		}
		header := "#: format domains\n"
		if !in.File.Names() {
			header = "#: format patterns\n"
		}
		after := input(t, strings.Replace(string(changed), "\n", header, 1), 0)
		before := input(t, strings.Replace(string(content), "\n", header, 1), 0)
		for _, change := range check.Changes(in.Template, before.File, after.File) {
			if change.Why != "" || change.Admits && change.Host != "" {
				t.Errorf("narrowing %v: %+v by\n%s", narrow, change, changed)
			}
		}
		m := matcherOf(t, after)
		for _, host := range hosts {
			if permits, _ := m.Permits(strings.TrimSuffix(host, "…")); !permits {
				t.Errorf("narrowing %v: %s is not permitted any more by\n%s", narrow, host, changed)
			}
		}
	}
}

func matcherOf(t *testing.T, in Input) interface{ Permits(string) (bool, int) } {
	t.Helper()
	p, err := policy.New(in.File, nil, in.Template, policy.Input{Bind: netip.IPv4Unspecified()})
	if err != nil {
		t.Fatal(err)
	}
	return p.Matcher()
}

func TestFix(t *testing.T) {
	in := input(t, "#: format domains\nbank.example\nold.example\n*.bank.example\n", 48*time.Hour, "bank.example", "www.bank.example")
	r, err := Of(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		content string
		narrow  Narrowing
		want    string
	}{
		{"#: format domains\nbank.example\n  old.example \n*.bank.example\n", KeepWide,
			"#: format domains\nbank.example\n# unused, 2026-11-30: old.example\n*.bank.example\n"},
		{"\ufeff#: format domains\r\nbank.example\r\nold.example\r\n*.bank.example", ToHosts,
			"\ufeff#: format domains\r\nbank.example\r\n# unused, 2026-11-30: old.example\r\n# wide, 2026-11-30: *.bank.example\nwww.bank.example"},
	} {
		if got, err := r.Fix([]byte(tt.content), tt.narrow, today); err != nil || string(got) != tt.want {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, changed := range []string{"", "#: format domains\nbank.example\nnew.example\n*.bank.example\n", "#: format domains\nbank.example\n"} {
		if got, err := r.Fix([]byte(changed), KeepWide, today); err == nil || !strings.Contains(err.Error(), "has changed meanwhile") {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// A long list is reviewed in a time that a person waits for.
func TestLongList(t *testing.T) {
	var b strings.Builder
	b.WriteString("#: format domains\n*.bank.example\n")
	for i := range 500 {
		fmt.Fprintf(&b, "n%d.shop.example\n", i)
	}
	r, err := Of(input(t, b.String(), 48*time.Hour, "n7.shop.example", "www.bank.example"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, l := range r.Lines {
		found[l.Finding]++
	}
	if found[Unused] != 499 || found[Wide] != 1 || found[""] != 1 {
		t.Errorf("%v", found)
	}
}
