package policy_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"vifproxy/internal/policy"
	"vifproxy/internal/policy/policytest"
	"vifproxy/rules"
	"vifproxy/rules/rulestest"
	"vifproxy/tinyproxy/limits"
)

var gateway = netip.MustParseAddr("10.137.0.5")

// forSome is an Upstream of hosts that nobody asks for. rulestest has one for all others.
const forSome = `Upstream http 192.0.2.1:3128 ".invalid"`

// startWritten starts a real tinyproxy with what a policy writes.
func startWritten(t *testing.T, p *policy.Policy) *rulestest.Proxy {
	t.Helper()
	lines, more := p.Written()
	var filter strings.Builder
	for _, l := range lines {
		if len(l.Text) > 511 {
			t.Errorf("a line of %d bytes", len(l.Text))
		}
		filter.WriteString(l.Text + "\n")
	}
	real, err := rulestest.Start(t, func(v rulestest.Values) string {
		return p.Template.Render(rules.Values(v)) + more
	}, []byte(filter.String()))
	if err != nil {
		t.Fatal(err)
	}
	return real
}

// TestJoinedLines: a real tinyproxy says the same of lines that became one as of each by itself.
func TestJoinedLines(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	word := func() (text string) {
		for range 1 + random.IntN(3) {
			text += string("abx0-"[random.IntN(5)])
		}
		return text
	}
	name := func() string {
		all := []string{word()}
		for range random.IntN(3) {
			all = append(all, word())
		}
		return strings.Join(append(all, "example"), ".")
	}
	for _, directives := range [][]string{nil, {"FilterCaseSensitive Yes"}} {
		var lines, names []string
		for i := range 60 {
			names = append(names, name())
			quoted := strings.ReplaceAll(names[i], ".", `\.`)
			lines = append(lines, fmt.Sprintf([]string{`^%s$`, `^%s\.?$`, `^([a-zA-Z0-9_-]+\.)+%s\.?$`, `\.%s$`, `^(y|%s)$`}[i%5], quoted))
		}
		lines = append(lines, "^A[bB]\\.Example$")
		settings := append([]string{"FilterDefaultDeny Yes", "FilterExtended Yes"}, directives...)
		p := policytest.Of(t, gateway, lines, append(settings, forSome)...)
		written, _ := p.Written()
		if len(written) > len(lines)/2 {
			t.Errorf("%d lines became %d", len(lines), len(written))
		}
		joined := startWritten(t, p)
		hosts := startWritten(t, policytest.Of(t, gateway, lines, settings...)) // which has an Upstream of the test's, too
		passed := 0
		for range 600 {
			host := name()
			if random.IntN(2) == 0 {
				host = names[random.IntN(len(names))]
			}
			switch random.IntN(4) {
			case 0:
				host += "."
			case 1:
				host = strings.ToUpper(host)
			case 2:
				host = strings.Replace(host, ".", []string{"", "..", "|", "x.", ":80."}[random.IntN(5)], 1)
			}
			want := hosts.Permits(host)
			if strings.Contains(host, ":") {
				want = false // the port ends the host, for a filter of hosts
			}
			if want {
				passed++
			}
			for method, form := range map[string]string{"GET": "http://%s/", "HEAD": "http://%s:81/a?b", "CONNECT": "%s:443"} {
				if got := joined.Status(method, fmt.Sprintf(form, host)) == 200; got != want {
					t.Errorf("%v %s %s: %v, and %v by lines that are compared with the host", directives, method, fmt.Sprintf(form, host), got, want)
				}
			}
		}
		if passed < 30 || passed > 570 {
			t.Errorf("%d of 600 passed", passed)
		}
	}
}

// TestMemoryOfLists: lines take no more of a real tinyproxy than its limits have for them, with an Upstream either.
func TestMemoryOfLists(t *testing.T) {
	const many = 1000
	for _, kind := range []string{`^host%d\.bank\.example\.?$`, `^([a-zA-Z0-9_-]+\.)+host%d\.bank\.example\.?$`, "^%0240d$"} {
		for _, upstream := range []string{"# none", forSome} {
			of := func(n int) (bytes uint64, size limits.Rules) {
				var lines []string
				for i := range n {
					lines = append(lines, fmt.Sprintf(kind, 10000+i))
				}
				p := policytest.Of(t, gateway, lines, "FilterDefaultDeny Yes", "FilterExtended Yes", upstream)
				real := startWritten(t, p)
				for i := range 50 {
					host := fmt.Sprintf("%s.%d.example", strings.Repeat("www.", i%7)+string(rune('a'+i%26)), i)
					for method, url := range map[string]string{"GET": "http://" + host + "/", "CONNECT": host + ":443"} {
						if status := real.Status(method, url); status != 403 {
							t.Fatalf("%s %s: %d", method, url, status)
						}
					}
				}
				return anonymous(t, real.PID), p.Size()
			}
			took, size := of(many)
			without, _ := of(1)
			most := limits.Of(0, size).Memory - limits.Of(0, limits.Rules{}).Memory
			t.Logf("%s, %s: %d bytes a line, of %d", kind, upstream, (took-without)/many, most/many)
			if took-without > most {
				t.Errorf("%d lines like %s, %s: %d bytes, and its limits have %d", many, kind, upstream, took-without, most)
			}
		}
	}
}

// anonymous returns how many bytes a process has of its own.
func anonymous(t *testing.T, pid int) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "Anonymous:")
	n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}
