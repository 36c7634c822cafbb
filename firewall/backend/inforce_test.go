package backend

import (
	"regexp"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
)

// What Sync calls in force is: there it takes the time of one write from the change.
func TestInForce(t *testing.T) {
	moved := Personal
	moved.To = BindingOf("x", "10.0.0.1", "10.138.0.1:61002").To
	cases := map[string]struct {
		want  []firewall.Binding
		leads string // where the first AppVM is led
		other bool   // whether the second is led anywhere
	}{
		"moved":             {[]firewall.Binding{moved, Social}, "61002", true},
		"moved and removed": {[]firewall.Binding{moved}, "61002", false},
		"nothing to do":     {[]firewall.Binding{Personal, Social}, "61000", true},
	}
	first := regexp.MustCompile(`"vif1\.0" \. 10\.137\.0\.11 : 10\.138\.0\.1 \. (\d+)`)
	second := regexp.MustCompile(`"vif2\.0" \. 10\.137\.0\.12 :`)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			OnEach(t, func(t *testing.T, m Machine) {
				b := open(t, m)
				Bind(t, b, Personal, Social)
				calls := 0
				_, err := b.Sync(t.Context(), firewall.State{Bindings: c.want}, func() {
					calls++
					rules := m.Rules(t)
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
