package secret

import (
	"strings"
	"testing"
)

func TestPasswordsAreHidden(t *testing.T) {
	for line, want := range map[string]string{
		"Upstream http me:pass@proxy.example:3128":  "Upstream …",
		"\tupstream\thttp me:pa ss@proxy.example:3": "upstream …",
		"Upstraem http me:pass.proxy.example:3128":  "Upstraem …",
		"Upstream http me:pass@word@proxy.example":  "Upstream …",
		"BasicAuth me pass":                         "BasicAuth …",
		"BasicAuht pass":                            "BasicAuht …",
		`AddHeader "X-Token" "pass"`:                "AddHeader …",
		"me:pass@proxy.example:3128":                "…",
		"# Upstream http me:pass@proxy.example:1":   "…",
		"ViaProxyName me:pass@proxy.example":        "ViaProxyName …",
		"Port {prot}":                               "Port {prot}",
		`LogFile "/x"`:                              `LogFile "/x"`,
		"# a comment":                               "# a comment",
		"Nonsense":                                  "Nonsense",
		"":                                          "",
	} {
		if got := Directive(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		} else if strings.Contains(got, "pass") {
			t.Errorf("%q is shown", got)
		}
	}
	for text, want := range map[string]string{"http me:p@ss@x:1": "…@x:1", "^bank$": "^bank$"} {
		if got := Text(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
