package rules

import (
	"strings"
	"testing"
)

// What can only mean one thing is that; what can mean two is nothing.
func TestNamesMeant(t *testing.T) {
	for text, want := range map[string]string{
		"https://bank.example/": "bank.example", "HTTP://Bank.example:80/x?y#z": "bank.example", "bank.example/login": "bank.example",
		"https://bank.example:8443/x": "bank.example:8443", "bank.example:8443/x": "bank.example:8443", "wss://a.example/ws": "a.example",
		"https://bank.example/login?next=/(a)": "bank.example", "https://*.bank.example/*": "*.bank.example",
		"a.example b.example": "a.example b.example", "a.example,b.example; *.c.example": "a.example b.example *.c.example",
		`"bank.example"`: "bank.example", "bank.example,": "bank.example", `^bank\.example$`: "bank.example",
		`^[a-zA-Z0-9._-]*\.bank\.example$`: "*.bank.example", "198.51.100.7/x": "198.51.100.7",

		".bank.example": "", "*bank.example": "", "ftp://bank.example/": "", "user@bank.example": "", "https://user:word@bank.example/": "",
		"127.0.0.1 tracker.example": "", "0.0.0.0 tracker.example": "", "bank.example and shop.example": "", "bank": "", "": "",
		"M\xfcller.example": "", `^bank.example$`: "", `bank\.example`: "", "(a|b).example": "", "||bank.example^": "", "https://bank/": "", "- bank.example": "",
	} {
		if got := strings.Join(NamesMeant(text), " "); got != want {
			t.Errorf("%q means %q, want %q", text, got, want)
		}
	}
}

func TestDirectiveMeant(t *testing.T) {
	for line, want := range map[string]string{
		"#: format domain": "#: format domains", "#:format:domains": "#: format domains", "#: Format Domains": "#: format domains",
		"#: format domian": "#: format domains", "#: domains": "#: format domains", "#: format names": "#: format domains",
		"# format domains": "#: format domains", "#: formt patterns": "#: format patterns", "#: ports 22, 8443": "#: port 22 8443",
		"#: egres 192.168.1.5:80": "#: egress 192.168.1.5:80", "#: Egress 192.168.1.5": "#: egress 192.168.1.5",

		"#: incldue office": "#: include office", "#: includes: office": "#: include office", "#: Include office.2": "#: include office.2",
		"#: include": "", "#: Include Office": "", "#: includ ../office": "", "#: include a b": "", "#: include office": "",

		"#: format domains": "", "#: port 22": "", "#: ingress 192.168.1.5": "", "#: port": "", "#: port x": "", "#: my own words": "",
		"# the format of domains": "", "#: format": "", "#:": "", "bank.example": "",
	} {
		if got := directiveMeant(line); got != want {
			t.Errorf("%q means %q, want %q", line, got, want)
		}
	}
}
