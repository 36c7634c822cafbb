package forward

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// What chains of other programs do to a packet is read from them: what drops it for certain, what may, and what does not.
func TestObstacles(t *testing.T) {
	l, err := lab.New(t.Context(), lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	leaving := Packet{Out: "eth0", From: netip.MustParseAddr("192.0.2.2"), To: netip.MustParseAddr("198.51.100.1"),
		Protocol: unix.IPPROTO_TCP, Port: 443, UID: 0x70890011}
	arriving := Packet{In: "vif7.0", From: netip.MustParseAddr("10.137.0.11"), To: lab.Gateway, Protocol: unix.IPPROTO_TCP, Port: 8100}
	for _, tt := range []struct{ hook, rules, want string }{
		{"type filter hook output priority 0", "tcp dport 443 drop", "rule 1 (hook output)"},
		{"type filter hook output priority 0", "oifname lo accept; tcp dport { 80, 400-500 } reject", "rule 2 (hook output)"},
		{"type filter hook output priority 0", "meta skuid 0x70890011 drop", "rule 1 (hook output)"},
		{"type filter hook output priority 0", "meta skuid 1000 drop; ip daddr 10.0.0.0/8 drop; udp dport 443 drop; oifname wg0 drop", ""},
		{"type filter hook output priority 0", "meta cgroup 7 drop", "rule 1 (hook output)?"},
		{"type filter hook output priority 0; policy drop", "ct state established accept; tcp dport 53 accept", "its policy (hook output)"},
		{"type filter hook output priority 0; policy drop", "ct state { new, established } tcp dport { 80, 443 } accept", ""},
		{"type filter hook output priority 0; policy drop", "meta cgroup 7 accept", "its policy (hook output)?"},
		{"type filter hook postrouting priority 0", `oifname "eth*" ip daddr 198.51.100.0/24 drop`, "rule 1 (hook postrouting)"},
		{"type route hook output priority 0", "jump more", "chain more, rule 1 (hook output)"},
		{"type filter hook input priority 10; policy drop", `iifname "vif*" tcp dport 8100 accept`, "its policy (hook input)"},
		{"type filter hook input priority 10; policy drop", `iifname "vif*" tcp dport 61000-64999 accept`, ""},
		{"type filter hook input priority 10", "ip saddr 10.137.0.12 drop; iifname eth0 drop; fib daddr type unicast drop", ""},
		{"type filter hook input priority 10", "ip saddr 10.137.0.0/24 drop", "rule 1 (hook input)"},
		{"type filter hook prerouting priority -300", "tcp dport 8100 drop", "rule 1 (hook prerouting)"},
		{"type filter hook prerouting priority -50", "tcp dport 8100 drop", ""},
		{"type filter hook forward priority 0", "drop", ""},
	} {
		var text strings.Builder
		text.WriteString("table inet probe\ndelete table inet probe\ntable inet probe {\n chain more { drop\n }\n chain x { " + tt.hook + ";\n")
		text.WriteString(strings.ReplaceAll(tt.rules, "; ", "\n") + "\n }\n}\n")
		nft := l.Command(t.Context(), "nft", "-f", "-")
		nft.Stdin = strings.NewReader(text.String())
		if out, err := nft.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", text.String(), err, out)
		}
		var found []Obstacle
		if err := l.Do(func() error {
			o, err := ReadObstacles()
			found = slices.Concat(o.Leaving(leaving), o.Arriving(arriving, 61000))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		found = slices.DeleteFunc(found, func(o Obstacle) bool { return !strings.Contains(o.Rule, "probe") }) // Qubes' own shut AppVMs out here
		got := ""
		for _, o := range found {
			got += o.Rule
			if !o.Certain {
				got += "?"
			}
		}
		if got != tt.want && (tt.want == "" || !strings.HasSuffix(got, tt.want) || len(found) != 1) {
			t.Errorf("%s: %s: %s, want %s", tt.hook, tt.rules, got, tt.want)
		}
	}
}
