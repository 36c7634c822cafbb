package expression

import (
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
