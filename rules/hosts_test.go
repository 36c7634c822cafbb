package rules

import (
	"slices"
	"testing"
)

func TestHostsOfAFile(t *testing.T) {
	for text, want := range map[string][]string{
		"#: format domains\nbank.example\n*.shop.example\ngit.example:22\n192.168.1.5\n":           {"bank.example", "git.example"},
		"^bank\\.example$\nshop.example\n^[a-z]*\\.cdn\\.example$\n^a\\.b$\n^192\\.168\\.1\\.5$\n": {"bank.example", "a.b"},
		"": nil,
	} {
		file, err := ParseFile("x.10.137.0.1", []byte(text))
		if got := file.Hosts(); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q (%v), want %q", text, got, err, want)
		}
	}
}
