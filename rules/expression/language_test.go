package expression

import "testing"

func TestLanguagesByName(t *testing.T) {
	for _, l := range []Language{Basic, Extended, Fnmatch} {
		if got, ok := ParseLanguage(l.String()); got != l || !ok {
			t.Errorf("%v: %v, %v", l, got, ok)
		}
	}
	if _, ok := ParseLanguage("pcre"); ok {
		t.Error("pcre is a language")
	}
}
