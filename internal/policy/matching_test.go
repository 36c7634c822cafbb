package policy_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vifproxy/internal/policy/policytest"
	"vifproxy/tinyproxy"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// What package rules/match does not know exactly, a real tinyproxy says.
func TestMatchingKnowsAllLines(t *testing.T) {
	p := policytest.Of(t, loopback, []string{`x`, `^\(a\)\1$`, `^a`, `b\(b\)\1$`})
	for _, tt := range []struct {
		host string
		most int
		want []int
	}{{"aa", 9, []int{1, 2}}, {"aa", 1, []int{1}}, {"ab", 9, []int{2}}, {"abbb", 9, []int{2, 3}}, {"abbb", 1, []int{2}}, {"c", 9, nil}} {
		got, err := p.Matching(t.Context(), tinyproxy.Request{Host: tt.host, Port: 80, URI: "/"}, tt.most)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s, at most %d: %v, %v", tt.host, tt.most, got, err)
		}
	}
}

// Lines are compared with what a real tinyproxy compares them with.
func TestMatchingComparesWhatTinyproxyDoes(t *testing.T) {
	lines := []string{`^a$`, `^a:443$`, `^http://a/x$`, `^http://a:81/x$`, `^::1$`, `^\[::1]:443$`, `^http://\[::1]/x$`, `^A$`}
	matched := map[int]bool{}
	for _, directives := range [][]string{{"FilterURLs Yes"}, {"FilterURLs No"}, {"FilterURLs Yes", "FilterCaseSensitive Yes"}} {
		p := policytest.Of(t, loopback, lines, directives...)
		for _, r := range []tinyproxy.Request{
			{Tunnel: true, Host: "a", Port: 443}, {Host: "a", Port: 80, URI: "/x"}, {Host: "a", Port: 81, URI: "/x"},
			{Tunnel: true, Host: "::1", Port: 443}, {Host: "::1", Port: 80, URI: "/x"}, {Host: "b", Port: 80, URI: "/a"},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			got, err := p.Matching(ctx, r, len(lines))
			want, judgeErr := p.Judge().Matches(ctx, lines, []tinyproxy.Request{r}, len(lines))
			if err != nil || judgeErr != nil || !slices.Equal(got, want[0]) {
				t.Errorf("%s under %q: %v (%v), and tinyproxy says %v (%v)", r.Line(), directives, got, err, want, judgeErr)
			}
			for _, i := range got {
				matched[i] = true
			}
		}
	}
	if len(matched) != len(lines) {
		t.Errorf("only the lines %v match", matched)
	}
}

// Whether a list permits a name follows from its default and its lines, also those that only a real tinyproxy can compare.
func TestPermits(t *testing.T) {
	black := policytest.Of(t, loopback, []string{`^\(a\)\1$`, `^b$`})
	white := policytest.Of(t, loopback, []string{`^b$`}, "FilterDefaultDeny Yes")
	for _, tt := range []struct {
		host         string
		black, white bool
	}{{"aa", false, false}, {"a", true, false}, {"b", false, true}} {
		b, err := black.Permits(t.Context(), tt.host)
		w, err2 := white.Permits(t.Context(), tt.host)
		if err != nil || err2 != nil || b != tt.black || w != tt.white {
			t.Errorf("%s: the black list says %v (%v), the white one %v (%v)", tt.host, b, err, w, err2)
		}
	}
}

// Connections live on when a list is written in another form that permits as much, and only then.
func TestPermitsAll(t *testing.T) {
	bind := netip.MustParseAddr("10.137.0.1")
	const deny, allow = "FilterDefaultDeny Yes", "FilterDefaultDeny No"
	for _, tt := range []struct {
		name, directives string
		old, now         []string
		want             bool
	}{
		{"a line more", deny, []string{"^a$"}, []string{"^a$", "^b$"}, true},
		{"a line less", deny, []string{"^a$", "^b$"}, []string{"^a$"}, false},
		{"a line that another one covers", deny, []string{`^www\.bank$`, `bank$`}, []string{`bank$`}, true},
		{"names in the place of patterns", deny, []string{`^www\.bank\.example$`}, []string{"#: format domains", "*.bank.example"}, true},
		{"patterns in the place of names", deny, []string{"#: format domains", "*.bank.example"}, []string{`\.bank\.example$`}, false},
		{"the period at the end is a name of its own", deny, []string{"#: format domains", "bank.example"}, []string{`^bank\.example$`}, false},
		{"a narrower line", deny, []string{`bank`}, []string{`^bank$`}, false},
		{"case", deny + "\nFilterCaseSensitive Yes", []string{`^Bank$`}, []string{`^bank$`}, false},
		{"a black list, a line less", allow, []string{"a", "b"}, []string{"a"}, true},
		{"a black list, a line more", allow, []string{"a"}, []string{"a", "b"}, false},
		{"a black list, a line more that another one covers", allow, []string{"a"}, []string{"a", "ab"}, true},
		{"a black list that nobody but tinyproxy knows", allow, []string{`\(a\)\1`}, []string{`\(a\)\1b`, `\(b\)\1`}, false},
		{"whole URLs", deny + "\nFilterURLs Yes", []string{"^http://a/x"}, []string{"^http://a/"}, true},
		{"too much to compare", allow + "\nFilterExtended Yes", []string{"^[ab]{40}a[ab]*$"}, []string{"^(a|b){40}a(a|b)*$"}, false},
	} {
		old, now := policytest.Of(t, bind, tt.old, tt.directives), policytest.Of(t, bind, tt.now, tt.directives)
		moved := now.At(netip.MustParseAddr("10.137.0.2"), "")
		for range 2 { // the second answer is the one that is remembered
			if got := now.PermitsAll(old); got != tt.want {
				t.Errorf("%s: %v", tt.name, got)
			}
			if got := moved.At(bind, "").PermitsAll(old); got != tt.want {
				t.Errorf("%s, after a move: %v", tt.name, got)
			}
		}
		if moved.PermitsAll(old) {
			t.Errorf("%s: permitted at another gateway", tt.name)
		}
	}
}
