package match

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"vifproxy/rules/rulestest/randomlist"
)

var pairs = flag.Int("pairs", 4000, "how many pairs of a list and a name TestAgreesWithTinyproxy tries, of each kind")

// For random lists and names, a real tinyproxy lets pass what the matcher says that it lets pass.
func TestAgreesWithTinyproxy(t *testing.T) {
	const perList = 200
	for _, k := range randomlist.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(20, 26))
			tried, matched, refused := 0, 0, 0
			for list := 0; tried < *pairs; list++ {
				s := k.Syntax(r)
				s.URLs = k.Whole() && r.IntN(5) == 0
				written, lines := k.List(t, r, s, func(text string, compiled []string) bool {
					m := New(compiled, s.Compiled())
					if s.Narrows() && !m.Exact() {
						t.Fatalf("%s became %q, of which %v", text, compiled, m.Inexact())
					}
					if !m.Exact() { // a real tinyproxy judges that
						refused++
					}
					return m.Exact()
				})
				m := New(lines, s.Compiled())
				t.Run("", func(t *testing.T) { // ends this tinyproxy before the next one starts
					proxy, err := randomlist.Start(t, s.Compiled(), lines)
					if err != nil {
						t.Errorf("%q under %+v: %v", lines, s, err)
						return
					}
					for range perList {
						name := randomlist.NameFor(r, written)
						text, url := name, fmt.Sprintf("http://%s/", name)
						if s.URLs {
							url += []string{"", "a", "b.a", "bank"}[r.IntN(4)]
							text = url
						}
						code := proxy.Status("GET", url)
						if code != 200 && code != 403 {
							if name != "" && !strings.HasPrefix(name, ".") {
								t.Logf("%q: status %d", name, code)
							}
							continue
						}
						permits, line := m.Permits(text)
						if tried++; line >= 0 {
							matched++
						}
						if permits != (code == 200) {
							t.Errorf("%q under %+v: %q permitted %v by line %d, and tinyproxy says %d", lines, s, text, permits, line, code)
						}
					}
				})
				if t.Failed() && list > 50 {
					return
				}
			}
			t.Logf("%d pairs, %d of them match; %d lines are not exact", tried, matched, refused)
			if matched < tried/20 {
				t.Errorf("only %d of %d pairs match", matched, tried)
			}
		})
	}
}
