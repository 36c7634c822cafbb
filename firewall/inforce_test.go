package firewall

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
)

// What Sync calls in force is: there it takes the time of one write from the change.
func TestInForce(t *testing.T) {
	moved := personal
	moved.To = binding("x", "10.0.0.1", "10.138.0.1:61002").To
	cases := map[string]struct {
		before string // what somebody else does first
		want   []Binding
		leads  string // where the first AppVM is led
		other  bool   // whether the second is led anywhere
	}{
		"moved":             {"", []Binding{moved, social}, "61002", true},
		"moved and removed": {"", []Binding{moved}, "61002", false},
		"nothing to do":     {"", []Binding{personal, social}, "61000", true},
		"led elsewhere": {`iptables -t nat -I VIFPROXY -s 10.137.0.11 -i vif1.0 -p tcp --dport 8100 -m addrtype --dst-type LOCAL \
			-j DNAT --to-destination 10.138.0.1:61009`, []Binding{personal, social}, "61000", true},
		"flushed":    {"iptables -t nat -F VIFPROXY", []Binding{personal, social}, "61000", true},
		"taken away": {"iptables -t nat -F; iptables -t nat -X VIFPROXY", []Binding{personal, social}, "61000", true},
	}
	first := regexp.MustCompile(`(?:-s 10\.137\.0\.11/32 -i vif1\.0 .* --to-destination|"vif1\.0" \. 10\.137\.0\.11 :) 10\.138\.0\.1(?:\.|:| \. )(\d+)`)
	second := regexp.MustCompile(`--to-destination 10\.138\.0\.1:61001|"vif2\.0" \. 10\.137\.0\.12 :`)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, m machine) {
				b := m.open(t)
				sync(t, b, personal, social)
				if m.kind == "iptables" && c.before != "" {
					m.shell(t, c.before)
				}
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

// What is left to take away may be put off, and is then the next Sync's.
func TestRestIsPutOff(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		putOff := m.kind == "iptables" // nftables has no rest that takes time
		b := m.open(t)
		sync(t, b, personal, social)
		moved := personal
		moved.To = binding("x", "10.0.0.1", "10.138.0.1:61002").To
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := b.Sync(ctx, State{Bindings: []Binding{moved, social}}, cancel); errors.Is(err, context.Canceled) != putOff {
			t.Errorf("error %v; put off: %v", err, putOff)
		}
		if rules := m.rules(t); !strings.Contains(rules, "61002") || strings.Contains(rules, "--dport 61000 -j ACCEPT") != putOff {
			t.Errorf("want what is new, and what was there before: %v\n%s", putOff, rules)
		}
		again := moved
		again.To = binding("x", "10.0.0.1", "10.138.0.1:61003").To
		sync(t, b, again, social)
		if rules := m.rules(t); strings.Contains(rules, "--dport 61000 ") || strings.Contains(rules, "61002") || !strings.Contains(rules, "61003") {
			t.Errorf("want no more than the last:\n%s", rules)
		}
	})
}
