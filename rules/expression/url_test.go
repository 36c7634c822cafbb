package expression

import (
	"slices"
	"strings"
	"testing"
)

func TestOfURL(t *testing.T) {
	const before, behind = "^((http|ftp)://)?(", ")(:[0-9]{1,5})?(/.*)?$"
	for line, want := range map[string]string{
		`^bank\.example$`:                          `bank\.example`,
		`^a$|^b[0-9]*$`:                            `a|b[0-9]*`,
		`^[a-zA-Z0-9._-]*(^|\.)bank\.example$`:     `bank\.example|[a-zA-Z0-9._-]*(\.)bank\.example`,
		`^bank(\.example|$)[a-zA-Z0-9._-]*$`:       `bank|bank(\.example)[a-zA-Z0-9._-]*`,
		`^a(^|x)b$`:                                `a(x)b`, // nothing is before the beginning
		`^(www\.|)bank(\.example|)$`:               `(www\.|)bank(\.example|)`,
		`^[a-zA-Z0-9._-]*\bbank\>[a-zA-Z0-9._-]*$`: `[a-zA-Z0-9._-]*\bbank\>[a-zA-Z0-9._-]*`,
		`^2001:db8::1$`:                            `\[?2001:db8::1\]?`,
		`^::ffff:192\.0\.2\.1$`:                    `\[?::ffff:192\.0\.2\.1\]?`,
		`^(a|b){2}$`:                               `(a|b){2}`,
	} {
		if got, flaw := OfURL(line, false); flaw != nil || got != before+want+behind {
			t.Errorf("%s: %s, %v", line, got, flaw)
		}
	}
	for line, want := range map[string]string{
		`^a((^|x)b)*$`:                       "'^' or '$' in its middle",
		`^a\Bb$`:                             "'^' or '$' in its middle",
		"^" + strings.Repeat("a", 480) + "$": "has 520 bytes of at most 511",
	} {
		if got, flaw := OfURL(line, false); flaw == nil || !strings.Contains(flaw.Error(), want) {
			t.Errorf("%s: %s, %v", line, got, flaw)
		}
	}
}

func TestJoinURLs(t *testing.T) {
	var texts []string
	for _, line := range []string{`a\.example\.?`, `a(b|c)`, `([a-zA-Z0-9_-]+\.)+b\.example\.?`, `[a-zA-Z0-9._-]*x`, `[a-zA-Z0-9._-]*x[a-zA-Z0-9._-]*`,
		`a{2}`, `[bB]\.x`, strings.Repeat("c", 450), `d\.x`} {
		text, flaw := OfURL("^"+line+"$", false)
		if flaw != nil {
			t.Fatal(flaw)
		}
		texts = append(texts, text)
	}
	joined, places := JoinURLs(texts)
	want := []string{`a\.example\.?|([a-z0-9_-]+\.)+b\.example\.?|[a-zA-Z0-9._-]*x|b\.x`, `a(b|c)`, `[a-zA-Z0-9._-]*x[a-zA-Z0-9._-]*`, `a{2}`,
		strings.Repeat("c", 450) + `|d\.x`}
	for i := range want {
		want[i] = beforeHost + want[i] + behindHost
	}
	if !slices.Equal(joined, want) || !slices.Equal(places, []int{0, 1, 0, 0, 2, 3, 0, 4, 4}) {
		t.Errorf("%q %v", joined, places)
	}
	for _, text := range joined {
		if len(text) > LineMax {
			t.Errorf("%d bytes", len(text))
		}
	}
}
