package lint

import (
	"testing"
)

// Names in a file that says nothing of its format may be names, or patterns that match much more: nobody but their author knows.
func TestFixLeavesWhatMayBeTwoThings(t *testing.T) {
	for _, before := range []string{
		"bank.com\n*.bank.com\n", "# format domains\nbank.com\n", "https://bank.com/\n", "#: format domains\n.bank.com\n",
		"#: format domains\n*bank.com\n", "#: format domains\n127.0.0.1 tracker.com\n", "#: format domains\nftp://bank.com/\n",
	} {
		if got := string(Linter{}.Fix(somePath, []byte(before))); got != before {
			t.Errorf("%q became %q", before, got)
		}
	}
	for before, want := range map[string]string{
		"#: ports 22\r\n^bank\\.com$\r\n":                                     "#: port 22\r\n^bank\\.com$\r\n",
		"#: format domains\n^bank\\.com$ # mine\n":                            "#: format domains\nbank.com # mine\n",
		"#: format domains\n\thttps://bank.com:8443/x # y":                    "#: format domains\n\tbank.com:8443 # y",
		"#: format domains\n# https://x.com/\nhttps://a.com/#b\nc.com/,d.com": "#: format domains\n# https://x.com/\na.com\nc.com\nd.com",
	} {
		if got := string(Linter{}.Fix(somePath, []byte(before))); got != want {
			t.Errorf("%q became %q, want %q", before, got, want)
		}
	}
}
