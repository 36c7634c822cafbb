package lint

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vifproxy/rules"
)

// TestOpeningsOfTheFirewallVMAreFindings: a line that opens its own services, or does nothing, is hardly meant.
func TestOpeningsOfTheFirewallVMAreFindings(t *testing.T) {
	for line, want := range map[string]string{
		"#: egress 127.0.0.1:9050":   "127.0.0.1 is the firewall VM itself, or on its own link",
		"#: egress 127.0.0.0/8":      "127.0.0.0/8 leads nowhere",
		"#: egress ::1/128":          "::1 is the firewall VM itself, or on its own link",
		"#: egress fe80::/64":        "fe80::/64 leads nowhere",
		"#: egress 169.254.169.254":  "169.254.169.254 is the firewall VM itself, or on its own link",
		"#: egress 10.0.0.0/8":       "",
		"#: egress 192.168.1.5:8443": "",
	} {
		content := []byte(line + "\n^bank\\.example$\n")
		f, err := rules.ParseFile(somePath, content)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		for _, found := range [][]Finding{(Linter{}).Parsed(f), (Linter{}).File(somePath, content)} {
			if want == "" && len(found) == 0 {
				continue
			}
			if len(found) != 1 || want == "" || !strings.Contains(found[0].Problem, want) || found[0].Line != 1 ||
				found[0].Path != somePath || found[0].Refused {
				t.Errorf("%s: %+v, want %q", line, found, want)
			}
		}
	}
}

func TestOddPorts(t *testing.T) {
	for content, want := range map[string]string{
		"#: port 25 587\n^a\\.example$\n":                   "1 port 25 is open for all hosts of this list: mail servers",
		"#: format domains\na.example:53\n":                 "2 port 53 is open for all hosts of this list: name servers",
		"#: port 22\n^a\\.example$\n#: port 22 80\n":        "3 port 22 is opened by line 1 already",
		"#: format domains\na.example:22\na.example:22\n":   "3 says the same as line 2",
		"#: format domains\na.example:22\nA.example.:22\n":  "3 says the same as line 2",
		"#: format domains\n*.a.example:22\nb.a.example:22": "3 adds nothing to line 2",
		"#: format domains\n*.a.example:22\nb.a.example":    "",
		"#: format domains\na.example:22\na.example\n":      "",
		"#: format domains\na.example:443\nb.example:80\n":  "",
		"#: format domains\na.example:22\nb.example:22\n":   "",
	} {
		var got []string
		for _, f := range (Linter{}).File(somePath, []byte(content)) {
			got = append(got, fmt.Sprintf("%d %s", f.Line, f.Problem))
		}
		if (want == "") != (got == nil) || want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}
