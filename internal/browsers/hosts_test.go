package browsers

import (
	"strings"
	"testing"
)

func TestPurposeEndsAtTheBordersOfLabels(t *testing.T) {
	for host, known := range map[string]bool{
		"detectportal.firefox.com":                true,
		"DetectPortal.Firefox.COM.":               true,
		"contile.services.mozilla.com":            true,
		"a.b.services.mozilla.com":                true,
		"services.mozilla.com":                    true,
		"detectportal.firefox.com.bank.example":   false,
		"bank.example.detectportal.firefox.com":   false,
		"xdetectportal.firefox.com":               false,
		"firefox.com":                             false,
		"evilservices.mozilla.com":                false,
		"services.mozilla.com.bank.example":       false,
		"mozilla.com":                             false,
		".services.mozilla.com":                   true, // no host name; tinyproxy would have taken it for one
		"http://detectportal.firefox.com/success": false,
		"bank.example":                            false,
		"..":                                      false,
		".":                                       false,
		"":                                        false,
	} {
		if got := Purpose(host); (got != "") != known {
			t.Errorf("Purpose(%q) = %q", host, got)
		}
	}
}

// An entry that is written wrongly would never be found.
func TestHostsAreWrittenAsTheyAreLookedUp(t *testing.T) {
	for host, purpose := range hosts {
		name := strings.TrimPrefix(host, ".")
		if name != strings.ToLower(name) || strings.HasSuffix(name, ".") || strings.Count(name, ".") == 0 || purpose == "" {
			t.Errorf("%q: %q", host, purpose)
		}
		if Purpose(name) == "" {
			t.Errorf("%q is not found", host)
		}
	}
}
