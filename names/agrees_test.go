package names

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"vifproxy/names/wire"
	"vifproxy/rules/rulestest/randomlist"
)

var pairs = flag.Int("pairs", 1000, "how many pairs of a list and a name TestGateAgreesWithTinyproxy tries, of each kind")

// For random lists and names, a gate permits what a real tinyproxy lets pass in one of the forms that a client may have written. Of a list
// that has a line which only tinyproxy can compare, the gate says so, or agrees.
func TestGateAgreesWithTinyproxy(t *testing.T) {
	const perList = 100
	for _, k := range randomlist.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(20, 27))
			tried, permitted, doubts := 0, 0, 0
			for list := 0; tried < *pairs; list++ {
				s := k.Syntax(r)
				written, lines := k.List(t, r, s, func(string, []string) bool { return true })
				c := s.Compiled()
				gate, err := newGate(&wire.Gate{ID: 1, Language: c.Language.String(), CaseSensitive: c.CaseSensitive,
					DefaultAllow: c.DefaultAllow, Lines: lines})
				if err != nil {
					t.Fatal(err)
				}
				t.Run("", func(t *testing.T) { // ends this tinyproxy before the next one starts
					proxy, err := randomlist.Start(t, c, lines)
					if err != nil { // the daemon refuses the list, too
						if s.Narrows() {
							t.Errorf("%q under %+v: %v", lines, s, err)
						}
						return
					}
					for range perList {
						name := strings.TrimRight(randomlist.NameFor(r, written), ".")
						if name == "" {
							continue
						}
						passes, known := false, true
						for _, form := range forms(name) {
							switch code := proxy.Status("GET", fmt.Sprintf("http://%s/", form)); code {
							case 200:
								passes = true
							case 403:
							default: // tinyproxy reads no host in this
								known = false
							}
						}
						v := gate.permits(name)
						switch {
						case !known && !passes:
							continue
						case v == doubt:
							doubts++
							continue
						}
						tried++
						permitted += set(passes)
						if (v == yes) != passes {
							t.Errorf("%q under %+v: %q is permitted: %v, and by tinyproxy: %v", lines, c, name, v == yes, passes)
						}
					}
				})
				if t.Failed() && list > 50 {
					return
				}
			}
			t.Logf("%d pairs, %d of them permitted; %d doubts", tried, permitted, doubts)
			if permitted < tried/20 || permitted > tried*19/20 {
				t.Errorf("%d of %d pairs are permitted", permitted, tried)
			}
		})
	}
}
