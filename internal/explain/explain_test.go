package explain

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/internal/policy/policytest"
	"vifproxy/rules"
)

func TestExplainSteps(t *testing.T) {
	lines := []string{"# mine", `^a\.example$`, `\.example$`}
	for _, tt := range []struct {
		directive, address, want string
	}{
		{"FilterDefaultDeny Yes", "https://A.example/x", "CONNECT a.example:443: true; true permitted by 2 3"},
		{"FilterDefaultDeny Yes", "a.example:22", "CONNECT a.example:22: false; true permitted by 2 3"},
		{"FilterDefaultDeny Yes", "http://a.example:22/x?y", "GET http://a.example:22/x?y: true; true permitted by 2 3"},
		{"FilterDefaultDeny Yes", "bücher.com", "CONNECT xn--bcher-kva.com:443: true; false no line permits it"},
		{"FilterDefaultDeny Yes", "192.0.2.1:80", "GET http://192.0.2.1/: true; false no line permits it"},
		{"FilterDefaultDeny No", "a.example", "CONNECT a.example:443: true; false forbidden by 2 3"},
		{"FilterDefaultDeny No", "ws://b.com", "CONNECT b.com:80: false; true no line forbids it"},
		{"FilterURLs Yes", "http://b.com/.example", "GET http://b.com/.example: true; false forbidden by 3"},
	} {
		p := policytest.Of(t, netip.MustParseAddr("127.0.0.1"), lines, tt.directive)
		q, err := RequestFor(tt.address)
		if err != nil {
			t.Error(err)
			continue
		}
		port, err1 := Subject{Policy: p}.connectPortStep(context.Background(), q)
		step, err2 := Subject{Policy: p}.rulesStep(context.Background(), q)
		got := fmt.Sprintf("%s: %v; %v %s", q.Line(), port.Passes, step.Passes, step.Says)
		for _, line := range step.Lines {
			got += fmt.Sprintf(" %d", line.Line)
		}
		if err1 != nil || err2 != nil || got != tt.want {
			t.Errorf("%s under %s: %s, want %s (%v, %v)", tt.address, tt.directive, got, tt.want, err1, err2)
		}
	}
	for _, address := range []string{"ftp://a.example/", "a b", "*.example", "", "http://[::1%25lo]/", "http://\n"} {
		if q, err := RequestFor(address); err == nil {
			t.Errorf("%q became %v", address, q)
		}
	}
}

func TestExplainFence(t *testing.T) {
	lookUp := func(_ context.Context, host string) ([]netip.Addr, error) {
		switch host {
		case "lan.example":
			return []netip.Addr{netip.MustParseAddr("10.1.2.3")}, nil
		case "both.example":
			return []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("::ffff:192.168.1.5")}, nil
		case "proxy.corp.example":
			return []netip.Addr{netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("10.9.0.1")}, nil
		case "proxy.evil.example":
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		case "none.example":
			return nil, nil
		}
		return nil, errors.New("no such host")
	}
	forAll := []rules.Egress{{To: netip.MustParsePrefix("10.8.0.0/16")}}
	x := Explainer{LookUp: lookUp}
	fence := firewall.Fence{
		Ports:    []uint16{563},
		Openings: append(policy.Openings(forAll), firewall.Opening{To: netip.MustParsePrefix("10.9.0.1/32"), Port: 3128}),
	}
	for _, tt := range []struct{ lines, directive, address, want string }{
		{"", "", "lan.example", "false 10.1.2.3 is refused: it is in 10.0.0.0/8 " +
			"(the line `#: egress 10.1.2.3/32:443` in the rule file opens it)"},
		{"#: egress 10.1.0.0/16", "", "lan.example", "true 10.1.2.3 is opened by 1 #: egress 10.1.0.0/16"},
		{"#: egress 10.1.0.0/16", "", "http://lan.example:8080/", "false 10.1.2.3 is refused: it is in 10.0.0.0/8 " +
			"(the line `#: egress 10.1.2.3/32:8080` in the rule file opens it)"},
		{"x\n#: egress 10.1.2.0/24:8080", "", "http://lan.example:8080/",
			"true 10.1.2.3 is opened by 2 #: egress 10.1.2.0/24:8080"},
		{"", "", "both.example", "false fd00::1 is refused: it is in fc00::/7; 192.168.1.5 is refused: it is in 192.168.0.0/16 " +
			"(the line `#: egress [fd00::1/128]:443` in the rule file opens it)"},
		{"#: egress 192.168.1.5:443", "", "both.example", "true 192.168.1.5 is opened by 1 #: egress 192.168.1.5:443"},
		{"", "", "http://127.0.0.1/", "false 127.0.0.1 is refused: it is in 127.0.0.0/8 " +
			"(it would open this VM or an AppVM, so no line is proposed)"},
		{"", "", "http://198.18.0.7/", "false 198.18.0.7 is refused: it is in 198.18.0.0/15 " +
			"(the line `#: egress 198.18.0.0/15:80` in the rule file opens it)"}, // the next look-up has another address
		{"", "", "http://10.8.1.1/", "true 10.8.1.1 is opened for all by --egress-allow: 10.8.0.0/16"},
		{"", "", "http://10.9.0.1:3128/", "true 10.9.0.1 is opened for all by an Upstream in the template `config`: 10.9.0.1/32:3128"},
		{"", "", "none.example", "true not asked, as no address of the host is known now: it has none"},
		{"", "", "other.example", "true not asked, as no address of the host is known now: no such host"},
		{"", "Upstream http proxy.corp.example:3128", "lan.example",
			"true the Upstream of the template `config`, proxy.corp.example:3128, connects for it; 10.9.0.9 is refused: it is in 10.0.0.0/8; " +
				"10.9.0.1 is open"},
		{"", `Upstream http proxy.corp.example:3128 ".example"`, "lan.example",
			"true the Upstream of the template `config`, proxy.corp.example:3128, connects for it; 10.9.0.9 is refused: it is in 10.0.0.0/8; " +
				"10.9.0.1 is open"},
		{"", "Upstream http proxy.corp.example:3128\nUpstream none \"10.8.0.0/16\"", "http://10.8.1.1/",
			"true 10.8.1.1 is opened for all by --egress-allow: 10.8.0.0/16"},
		{"", "Upstream http proxy.corp.example:3128\nUpstream none \".example\"", "lan.example", "false 10.1.2.3 is refused: " +
			"it is in 10.0.0.0/8 (the line `#: egress 10.1.2.3/32:443` in the rule file opens it)"},
		{"", "Upstream http proxy.evil.example:3128", "lan.example",
			"false the Upstream of the template `config`, proxy.evil.example:3128, connects for it; 127.0.0.1 is refused: it is in 127.0.0.0/8 " +
				"(the name's addresses of the last 10 min are open, but for those of this VM and of AppVMs: " +
				"if it is meant to be there, write the address into the template `config`)"},
		{"", "Upstream http 10.9.0.1:3128", "lan.example", "true the Upstream of the template `config`, 10.9.0.1:3128, connects for it; 10.9.0.1 is open"},
		{"", "Upstream http gone.example:3128", "lan.example", "true the Upstream of the template `config`, gone.example:3128, connects for it; " +
			"no address of it is known now: no such host"},
		{"", `Upstream http proxy.corp.example:3128 ".corp.example"`, "lan.example", "false 10.1.2.3 is refused: it is in 10.0.0.0/8 " +
			"(the line `#: egress 10.1.2.3/32:443` in the rule file opens it)"},
	} {
		p := policytest.Of(t, netip.MustParseAddr("127.0.0.1"), strings.Split(tt.lines, "\n"), tt.directive)
		f := Subject{Policy: p, UID: 7, Fence: fence, ForAll: forAll}
		f.Fence.Proxies = []firewall.Proxy{{UID: 7, Openings: policy.Openings(p.Egress)}}
		q, err := RequestFor(tt.address)
		if err != nil {
			t.Error(err)
			continue
		}
		step, _, err := x.fenceStep(t.Context(), f, q)
		got := fmt.Sprint(step.Passes, " ", step.Says)
		for _, line := range step.Lines {
			got += fmt.Sprintf(" %d %s", line.Line, line.Text)
		}
		if err != nil || got != tt.want {
			t.Errorf("%s with %q: %s, want %s (%v)", tt.address, tt.lines, got, tt.want, err)
		}
	}
}

// A target is asked for as a browser asks for it.
func TestTargetsAsBrowsersSendThem(t *testing.T) {
	for typed, want := range map[string]string{
		"bank.example": "CONNECT bank.example:443", "BANK.example.:8443": "CONNECT bank.example:8443", "bank.example:80": "GET http://bank.example/",
		"http://192.0.2.1:81/a?b": "GET http://192.0.2.1:81/a?b", "ws://bank.example/": "CONNECT bank.example:80",
		"2001:db8::1": "CONNECT [2001:db8::1]:443", "[2001:DB8:0::1]:8443": "CONNECT [2001:db8::1]:8443",
		"https://[2001:db8::1]:8443/": "CONNECT [2001:db8::1]:8443", "http://[2001:db8::1]/x": "GET http://[2001:db8::1]/x",
	} {
		if q, err := RequestFor(typed); err != nil || q.Line() != want {
			t.Errorf("%s: %s (%v), want %s", typed, q.Line(), err, want)
		}
	}
}

// A mistake in a target is told with the target as it was typed, in no words of Go.
func TestTargetsThatAreNone(t *testing.T) {
	for typed, want := range map[string]string{
		"bank.example:99999":  `"bank.example:99999" has no port from 1 to 65535 behind the colon`,
		"bank.example:0":      `"bank.example:0" has no port from 1 to 65535 behind the colon`,
		"bank.example:x":      `"bank.example:x" is neither a URL nor HOST[:PORT]`,
		"https://[::1":        `"https://[::1" is neither a URL nor HOST[:PORT]`,
		"*.bank.example":      `"*.bank.example" names no host: give a URL, or HOST[:PORT]`,
		"ftp://bank.example":  `a web proxy does not speak "ftp"`,
		"https://[::1%25lo]/": `"https://[::1%25lo]/" names no host: give a URL, or HOST[:PORT]`,
		"":                    `"" names no host: give a URL, or HOST[:PORT]`,
	} {
		if _, err := RequestFor(typed); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", typed, err, want)
		}
	}
}
