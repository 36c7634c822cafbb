package firewall

import (
	"regexp"
	"testing"
)

// What Sync calls in force is: there it takes the time of one write from the change.
func TestInForce(t *testing.T) {
	moved := personal
	moved.To = binding("x", "10.0.0.1", "10.138.0.1:61002").To
	cases := map[string]struct {
		want  []Binding
		leads string // where the first AppVM is led
		other bool   // whether the second is led anywhere
	}{
		"moved":             {[]Binding{moved, social}, "61002", true},
		"moved and removed": {[]Binding{moved}, "61002", false},
		"nothing to do":     {[]Binding{personal, social}, "61000", true},
	}
	first := regexp.MustCompile(`"vif1\.0" \. 10\.137\.0\.11 : 10\.138\.0\.1 \. (\d+)`)
	second := regexp.MustCompile(`"vif2\.0" \. 10\.137\.0\.12 :`)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, m machine) {
				b := m.open(t)
				bind(t, b, personal, social)
				calls := 0
				_, err := b.Sync(t.Context(), State{Bindings: c.want}, func() {
					calls++
					rules := m.rules(t)
					if led := first.FindStringSubmatch(rules); led == nil || led[1] != c.leads || second.MatchString(rules) != c.other {
						t.Errorf("want port %s, another AppVM bound: %v, but the rules are\n%s", c.leads, c.other, rules)
					}
				})
				if err != nil || calls != 1 {
					t.Errorf("called %d times, %v", calls, err)
				}
			})
		})
	}
}
