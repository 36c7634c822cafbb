package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"vifproxy/internal/policy"
	"vifproxy/internal/policy/policytest"
	"vifproxy/rules"
)

func TestGate(t *testing.T) {
	white := "FilterDefaultDeny Yes"
	for _, tt := range []struct {
		what       string
		lines      []string
		directives []string
		gate       string // everything, or the default and lines; then the names in addition
		listed     string // addresses, or why any is open
	}{
		{"a white list", []string{`^bank\.example$`}, []string{white}, `deny ere ^bank\.example$; `, ""},
		{"fnmatch becomes an expression", []string{`*.bank.example`}, []string{white, "FilterType fnmatch"}, `deny ere ^[a-zA-Z0-9._-]*\.bank\.example$; `, ""},
		{"a black list", []string{`bank`}, nil, "allow bre bank; ", "it is a black list"},
		{"whole URLs", []string{`bank`}, []string{white, "FilterURLs Yes"}, "everything; ", "with FilterURLs, lines are compared with whole URLs"},
		{"addresses", []string{`^93\.184\.216\.3[45]$`, `^10\.0\.0\.1$`}, []string{white}, `deny ere ^93\.184\.216\.3[45]$ ^10\.0\.0\.1$; `,
			"10.0.0.1 93.184.216.34 93.184.216.35"},
		{"addresses without end", []string{`^a$`, `^93\.184\.`}, []string{white}, `deny ere ^a$ ^93\.184\.[a-zA-Z0-9._-]*$; `,
			"line 2 matches more than 256 addresses"},
		{"an Upstream for all", []string{`bank`, `^1\.1\.1\.1$`}, []string{white, "Upstream http proxy.example:8080"}, "deny ere; proxy.example", ""},
		{"an Upstream for all, by address", []string{`bank`}, []string{white, "Upstream http 10.0.0.1:8080"}, "deny ere; ", ""},
		{"an Upstream for some", []string{`^a$`}, []string{white, `Upstream http proxy.example:8080 ".corp"`}, "deny ere ^a$; proxy.example", ""},
		{"an Upstream for all but some", []string{`^a$`}, []string{white, "Upstream http proxy.example:8080", `Upstream none "a"`},
			"deny ere ^a$; proxy.example", ""},
		{"names in Allow and Deny", []string{`^a$`}, []string{white, "Allow 10.0.0.1", "Allow 10.0.0.0/8", "Deny .corp", `Allow "x.example"`},
			"deny ere ^a$; x.example", ""},
	} {
		p := policytest.Of(t, loopback, tt.lines, tt.directives...)
		g := p.Gate(nil)
		gate := "everything"
		if !g.Everything {
			gate = map[bool]string{true: "allow", false: "deny"}[g.DefaultAllow] + " " + strings.Join(append(strings.Fields(g.Language), g.Lines...), " ")
		}
		gate += "; " + strings.Join(g.Also, " ")
		listed := strings.Trim(fmt.Sprint(p.Listed), "[]")
		if p.AnyAddress != "" {
			listed = p.AnyAddress
		}
		if gate != tt.gate || listed != tt.listed {
			t.Errorf("%s: %q and %q, want %q and %q", tt.what, gate, listed, tt.gate, tt.listed)
		}
	}
}

// What a list or the daemon's options open, the resolver may answer with.
func TestGateHasOpenings(t *testing.T) {
	p := policytest.Of(t, loopback, []string{"#: egress 192.168.1.0/24:8443", "a"})
	forAll, err := rules.ParseEgress("10.1.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("10.1.0.0/16")}
	if got := p.Gate(forAll).Openings; !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// While one process serves and the next one starts, only what both may reach is open.
func TestAllowancesOfTwo(t *testing.T) {
	of := func(lines ...string) *policy.Policy {
		return policytest.Of(t, loopback, lines, "FilterDefaultDeny Yes")
	}
	one, two, some := of(`^93\.184\.216\.34$`, `^10\.0\.0\.1$`), of(`^93\.184\.216\.3[45]$`), of(`^93\.`)
	for _, tt := range []struct {
		target, serving *policy.Policy
		want            string
	}{
		{one, nil, "[93.184.216.34] false"}, // not the private one, which only an opening opens
		{one, two, "[93.184.216.34] false"}, {two, one, "[93.184.216.34] false"},
		{some, one, "[93.184.216.34] false"}, {one, some, "[93.184.216.34] false"},
		{some, nil, "[] true"}, {some, some, "[] true"},
	} {
		a := policy.AllowanceOf(tt.target, tt.serving)
		if got := fmt.Sprint(a.Listed, a.AnyAddress); got != tt.want {
			t.Errorf("%v after %v: %s, want %s", tt.target, tt.serving, got, tt.want)
		}
	}
}
