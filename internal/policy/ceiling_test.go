package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/rules/expression"
	"vifproxy/rules/match"
	"vifproxy/rules/rulestest/randomlist"
)

const ceilingText = "#: format domains\n#: port 22 8443\n#: egress 192.168.1.0/24:81\nbank.example\n*.shop.example\n"

func ceilingOf(t *testing.T, text string) *rules.Ceiling {
	t.Helper()
	c, err := rules.ParseCeiling("/top", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// under returns the policy of a list under a ceiling. With filter the template has another FilterType.
func under(t *testing.T, c *rules.Ceiling, list, filter string, temporary ...rules.Host) (*policy.Policy, error) {
	t.Helper()
	file, err := rules.ParseFile("/rules/work.10.137.22.2", []byte(list))
	if err != nil {
		t.Fatal(err)
	}
	template := rules.Builtin()
	if filter != "" {
		template, err = rules.ParseTemplate("/rules/config", "Listen {bind_ip}\nPort {port}\nFilter \"{rules_file}\"\nConnectPort 443\n"+filter+"\n")
		if err != nil {
			t.Fatal(err)
		}
	}
	return policy.New(file, temporary, template, policy.Input{Bind: netip.IPv4Unspecified(), Ceiling: c})
}

func TestNoListGoesBeyondTheCeiling(t *testing.T) {
	const names, deny = "#: format domains\n", "FilterDefaultDeny Yes\n"
	for _, tt := range []struct{ name, list, filter, want string }{
		{"a host", names + "bank.example", "", ""},
		{"a host below", names + "*.a.shop.example\nwww.shop.example:8443", "", ""},
		{"a pattern", `^[ab]\.shop\.example$`, "", ""},
		{"the pattern of allow", `^[a-zA-Z0-9._-]*\.shop\.example$`, "", ""},
		{"an extended pattern", `^(bank|(a|b)\.shop)\.example\.?$`, deny + "FilterExtended Yes", ""},
		{"fnmatch", "*.shop.example", deny + "FilterType fnmatch", ""},
		{"nothing", "", "", ""},
		{"what is open anyway", names + "#: port 443\nbank.example", "", ""},
		{"a narrower network", names + "#: egress 192.168.1.5/32:81\n", "", `:2: opens 192.168.1.5/32:81, and the ceiling /top does not`},
		{"a network within", names + "#: egress 192.168.1.0/25:81\n", "", ""},
		{"the host itself", names + "shop.example", "", `:2: "shop.example" admits shop.example, and the ceiling /top does not`},
		{"hosts below", names + "bank.example\n*.bank.example", "", `:3: "*.bank.example" admits a.bank.example, and`},
		{"unanchored", `bank\.example`, "", `:1: "bank\.example" admits bank.examplea`},
		{"only with a period at the end", "^evil\\.example\\.$", "", `:1: "^evil\.example\.$" admits evil.example., and`},
		{"a number", names + "192.0.2.1", "", `:2: "192.0.2.1" admits 192.0.2.1, and`},
		{"an address", names + "[2001:db8::1]", "", `:2: "[2001:db8::1]" admits 2001:db8::1, and`},
		{"a port", names + "#: port 22 25\nbank.example", "", `:2: opens port 25, and the ceiling /top does not (remove it, or add "#: port 25" to the ceiling)`},
		{"another network", names + "#: egress 192.168.2.0/24:81\n", "", `:2: opens 192.168.2.0/24:81, and the ceiling /top does not`},
		{"another port of it", names + "#: egress 192.168.1.0/24\n", "", `:2: opens 192.168.1.0/24, and the ceiling /top does not`},
		{"a black list", "", "FilterDefaultDeny No", `/top: is a ceiling, and with FilterDefaultDeny No or FilterURLs in the template /rules/config nobody can say`},
		{"whole URLs", "", deny + "FilterURLs Yes", `/top: is a ceiling, and with FilterDefaultDeny No or FilterURLs`},
	} {
		c := ceilingOf(t, ceilingText)
		switch _, err := under(t, c, tt.list, tt.filter); {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
		if _, err := under(t, nil, tt.list, tt.filter); err != nil {
			t.Errorf("%s, without a ceiling: %v", tt.name, err)
		}
	}
}

// A ceiling of patterns is the same as one of names.
func TestCeilingOfPatterns(t *testing.T) {
	c := ceilingOf(t, "^bank\\.example$\n")
	for list, good := range map[string]bool{"#: format domains\nbank.example": true, "^bank\\.example\\.$": true, "^bankxexample$": false} {
		if _, err := under(t, c, list, ""); (err == nil) != good {
			t.Errorf("%q: %v", list, err)
		}
	}
}

// What a lower ceiling does not admit is taken out of a policy that came up before.
func TestLastGoodPolicyUnderALowerCeiling(t *testing.T) {
	list := "#: format domains\n#: egress 192.168.1.0/24:81\nbank.example:22\na.shop.example:8443"
	p, err := under(t, ceilingOf(t, ceilingText), list, "", rules.Host{Name: "b.shop.example", Port: 8443})
	if err != nil {
		t.Fatal(err)
	}
	same := ceilingOf(t, ceilingText+"# in other words\n")
	if again := p.Under(same); again.Key() != p.Key() || again.Ceiling != same || again.Under(same) != again {
		t.Errorf("under a ceiling that admits as much: %v", again)
	}
	for text, want := range map[string]string{
		"#: format domains\nbank.example\n#: port 8443\n":     `^bank\.example\.?$ port 8443`,
		"^a\\.shop\\.example$\n#: egress 192.168.0.0/16:81\n": `^a\.shop\.example\.?$ egress 192.168.1.0/24:81`,
		"": "",
	} {
		less := p.Under(ceilingOf(t, text))
		if _, lines, _ := strings.Cut(less.String(), ": "); lines != want {
			t.Errorf("under %q: %q, want %q", text, lines, want)
		}
		if less.PermitsAll(p) || !p.PermitsAll(less) {
			t.Errorf("under %q it permits all that it did", text)
		}
	}
}

// What is allowed for a time is refused if it is beyond the ceiling, and ends when the ceiling is lowered.
func TestAllowancesUnderACeiling(t *testing.T) {
	const list = "#: format domains\nbank.example"
	host := func(name string, below bool, port uint16) rules.Host {
		return rules.Host{Name: name, Below: below, Port: port}
	}
	p, err := under(t, ceilingOf(t, ceilingText), list, "")
	if err != nil {
		t.Fatal(err)
	}
	for h, good := range map[rules.Host]bool{
		host("a.shop.example", false, 0): true, host("shop.example", true, 0): true, host("bank.example", false, 8443): true,
		host("bank.example", false, 443): true, host("", false, 22): true,
		host("shop.example", false, 0): false, host("bank.example", true, 0): false, host("bank.example", false, 25): false, host("", false, 25): false,
	} {
		if err := p.MayAllow(h); (err == nil) != good {
			t.Errorf("%v: %v", h, err)
		}
	}
	p, err = under(t, ceilingOf(t, ceilingText), list, "", host("a.shop.example", false, 8443), host("evil.example", false, 9999))
	if want := `^bank\.example\.?$ ^a\.shop\.example\.?$ port 8443`; err != nil || !strings.HasSuffix(p.String(), ": "+want) {
		t.Errorf("%v, %v; want %s", p, err, want)
	}
}

// For random lists and ceilings, a list that is taken matches no host that the ceiling does not match, and the host that is named for one
// that is refused is such a host.
func TestCeilingAgreesWithMatch(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 19))
	s := rules.Syntax{Language: expression.Extended}
	taken, refused := 0, 0
	for range 300 {
		_, top := randomlist.Kinds[0].List(t, r, s, func(string, []string) bool { return true })
		written, lines := randomlist.Kinds[0].List(t, r, s, func(string, []string) bool { return true })
		if r.IntN(2) == 0 { // what is narrower
			for _, line := range top {
				lines = append(lines[:0], "^("+line+")$", line+"a?$")
			}
		}
		c := ceilingOf(t, strings.Join(top, "\n"))
		if _, err := under(t, nil, strings.Join(lines, "\n"), "FilterDefaultDeny Yes\nFilterExtended Yes"); err != nil {
			continue
		}
		admits := func(m *match.Matcher, host string) bool {
			_, with := m.Match(host + ".")
			_, without := m.Match(host)
			return with || without
		}
		list, ceiling := match.New(lines, s), match.New(top, s)
		_, err := under(t, c, strings.Join(lines, "\n"), "FilterDefaultDeny Yes\nFilterExtended Yes")
		if err == nil {
			taken++
			for range 20 {
				if host := randomlist.NameFor(r, written); strings.Trim(host, ".") == host && host != "" && !strings.Contains(host, "..") && admits(list, host) && !admits(ceiling, host) {
					t.Errorf("%q is taken under %q and matches %q", lines, top, host)
				}
			}
			continue
		}
		refused++
		_, host, _ := strings.Cut(err.Error(), " admits ")
		host, _, _ = strings.Cut(host, ",")
		if host = strings.TrimSuffix(host, "."); !admits(list, host) || admits(ceiling, host) {
			t.Errorf("%q is refused under %q: %v", lines, top, err)
		}
	}
	if min(taken, refused) < 20 {
		t.Error(fmt.Sprint("they are too much alike: ", taken, refused))
	}
}
