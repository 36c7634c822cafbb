package forward

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	. "vifproxy/firewall/firewalltest"
)

// tried are chains of all kinds that nft can write, and by which interfaces proxies may not leave for them. The first field is what is in
// the table before the chain, "" for nothing; the second one the chain's type, hook and priority.
var tried = []struct{ name, before, hook, rules, barred string }{
	// IPsec: what a proxy sends is taken to leave without.
	{"plain", "", "", `rt ipsec missing drop`, "eth0 eth1 wg0 others"},
	{"plain by an interface", "", "", `oifname "eth0" rt ipsec missing drop`, "eth0"},
	{"IPsec is accepted", "", "", `rt ipsec exists accept; drop`, "eth0 eth1 wg0 others"},
	{"IPsec and a tunnel are accepted", "", "", `oifname "wg0" accept; rt ipsec exists accept; drop`, "eth0 eth1 others"},
	{"IPsec by its id", "", "", `ipsec out reqid 1 accept; drop`, "eth0 eth1 wg0 others"},
	{"IPsec by another id", "", "", `oifname "eth0" ipsec out reqid != 1 drop`, ""},
	{"all IPsec", "", "", `rt ipsec exists drop`, ""},
	{"plain in postrouting", "", "type filter hook postrouting priority 0", `oifname "eth0" iifname "vif*" rt ipsec missing drop`, "eth0"},
	{"came without IPsec", "", "", `oifname "eth0" meta ipsec missing drop`, "eth0"},
	{"came without IPsec, everywhere", "", "", `meta ipsec missing drop`, ""},

	// By the route, which says by which interface.
	{"by the next hop", "", "", `rt ip nexthop 10.9.2.2 drop`, "eth0 eth1 wg0 others"},
	{"by the route's realm", "", "", `meta rtclassid 5 drop`, "eth0 eth1 wg0 others"},
	{"a route there", "", "", `fib daddr oif missing drop`, ""},
	{"in prerouting", "", "type filter hook prerouting priority -300", `iifname "vif*" fib daddr oifname "eth0" drop`, "eth0"},
	{"in prerouting, after a chain", "chain x {\niifname \"vif*\" fib daddr oifname \"eth0\" drop\n}\n", "type filter hook prerouting priority -300", `jump x`, "eth0"},
	{"in prerouting, nobody leaves yet", "", "type filter hook prerouting priority -300", `oifname "eth0" accept; fib daddr oifname "eth0" drop`, "eth0"},
	{"in prerouting, to another", "", "type filter hook prerouting priority -300", `fib daddr oifname "wg0" accept; drop`, "eth0 eth1 others"},
	{"marked in prerouting", "chain pre {\ntype filter hook prerouting priority -150\nfib daddr oifname \"eth0\" meta mark set 1\n}\n", "", `meta mark 1 drop`, "eth0"},
	{"spoofed", "", "type filter hook prerouting priority -300", `fib saddr . iif oif missing drop; fib daddr . iif type != { local, broadcast, multicast, unicast } drop`, ""},
	{"antispoofing by a set", "set known {\ntype ifname . ipv4_addr\nelements = { vif1.0 . 10.137.0.11 }\n}\n",
		"type filter hook prerouting priority -300\npolicy drop", `iifgroup 0 accept; iifname . ip saddr @known accept`, ""},

	// One rule sets what another rule asks for.
	{"labelled", "", "", `oifname "eth0" ct label set 1; ct label 1 drop`, "eth0"},
	{"labelled elsewhere", "", "", `oifname "wg0" ct label set 1; ct label != 1 drop`, "eth0 eth1 wg0 others"},
	{"noted in a set", "set s {\ntype ipv4_addr\nflags dynamic,timeout\ntimeout 1h\n}\n", "", `oifname "eth0" update @s { ip daddr }; ip daddr @s drop`, "eth0 eth1 wg0 others"},
	{"noted elsewhere", "set s {\ntype ipv4_addr\nflags dynamic,timeout\ntimeout 1h\n}\n", "", `oifname "wg0" add @s { ip daddr }; ip daddr != @s drop`, "eth0 eth1 wg0 others"},
	{"a mark turned", "", "", `oifname "wg0" meta mark set 1; meta mark ^ 3 == 3 drop`, "eth0 eth1 wg0 others"},
	{"a set that packets fill, empty", "set s {\ntype ipv4_addr . ifname\nflags dynamic,timeout\ntimeout 1h\n}\n", "", `ip saddr . oifname @s accept; drop`, "eth0 eth1 wg0 others"},
	{"a set that is empty", "set s {\ntype ipv4_addr . ifname\n}\n", "", `ip saddr . oifname != @s drop`, "eth0 eth1 wg0 others"},
	{"accounting", "set s {\ntype ipv4_addr\nflags dynamic,timeout\ntimeout 1h\n}\n", "", `oifname "eth0" update @s { ip daddr counter }; ct state invalid drop; tcp flags & (syn|fin) == syn|fin drop`, ""},

	// By the clock, by chance, by amount: an interface is barred all the time.
	{"at night", "", "", `oifname "eth0" meta hour "22:00"-"23:00" drop`, "eth0"},
	{"by day another way", "", "", `oifname "eth0" meta day "Sunday" accept; oifname "eth0" drop`, "eth0"},
	{"at random", "", "", `oifname "eth0" numgen random mod 2 0 drop`, "eth0"},
	{"at random, otherwise", "", "", `oifname "eth0" meta random < 5 drop`, "eth0"},
	{"by a hash of the interface", "", "", `symhash mod 2 0 oifname "eth0" drop`, "eth0"},
	{"too much", "", "", `oifname "eth0" quota over 1000 mbytes drop`, "eth0"},
	{"above a rate that nobody keeps", "", "", `oifname "eth0" limit rate over 1/minute drop`, "eth0"},
	{"above a rate of nearly nothing", "", "", `oifname "eth0" limit rate over 1 bytes/second drop`, "eth0"},
	{"above no connection", "", "", `oifname "eth0" ct count over 0 drop`, "eth0"},
	{"above many connections", "", "", `oifname "eth0" ct count over 500 drop`, ""},
	{"above a rate", "", "", `oifname "eth0" limit rate over 10 mbytes/second drop`, ""},

	// By what is known of a connection or a socket.
	{"a zone", "", "", `oifname "eth0" ct zone 5 drop`, "eth0"},
	{"a helper", "", "", `oifname "eth0" ct helper "ftp" drop`, "eth0"},
	{"a direction", "", "", `oifname "eth0" ct direction original drop`, "eth0"},
	{"translated", "", "", `oifname "eth0" ct status dnat drop`, "eth0"},
	{"a kind of system", "", "", `oifname "eth0" osf name "Linux" drop`, "eth0"},
	{"an extension header", "", "", `oifname "eth0" exthdr hbh exists drop`, "eth0"},
	{"a kind of packet", "", "", `oifname "eth0" meta pkttype unicast drop`, "eth0"},
	{"the first bytes", "", "", `oifname "eth0" @nh,0,8 0x45 drop`, "eth0"},
	{"a flag in the place of a protocol", "", "", `oifname "eth0" @nh,48,8 0x40 drop`, "eth0"},
	{"a user's", "", "", `oifname "eth0" meta skuid 1000 drop`, ""},
	{"a user's are accepted", "", "", `meta skuid != 1000 accept; oifname "eth0" drop`, "eth0"},
	{"a control group's", "", "", `oifname "eth0" meta cgroup 7 drop`, ""},

	// Interfaces without a kind have none that differs.
	{"another protocol is accepted", "", "", `meta protocol arp accept; oifname "eth0" drop`, "eth0"},
	{"a protocol and an interface", "", "", `meta protocol . oifname { ip . "eth0" } drop`, "eth0"},
	{"a range of interfaces", "", "", `oif 1-4095 drop`, "eth0 eth1 wg0 others"},
	{"names and verdicts", "", "", `oifname vmap { "wg*" : accept, "eth0" : drop }`, "eth0"},
	{"a chain without a name", "", "", `oifname "eth0" jump { ; drop; }`, "eth0"},

	// Another program decides, or the kernel answers itself.
	{"queued", "", "", `oifname "eth0" queue num 0`, "eth0"},
	{"all is queued", "", "", `queue num 0`, ""},
	{"queued elsewhere", "", "", `oifname "wg0" queue num 0; drop`, "eth0 eth1 others wg0"},
	{"a proxy for SYN", "", "", `oifname "eth0" synproxy mss 1460 wscale 7`, "eth0"},
	{"rejected with a code", "", "", `oifname "eth0" reject with icmpx type admin-prohibited`, "eth0"},

	// nat may drop, too.
	{"nat", "", "type nat hook postrouting priority 100", `iifname "vif*" oifname "eth0" drop`, "eth0"},
	{"nat that translates", "", "type nat hook postrouting priority 100", `oifname "wg0" masquerade; oifgroup 2 accept; oifname "lo" accept; masquerade`, ""},
	{"nat that translates, and drops the rest", "", "type nat hook postrouting priority 100", `oifname "wg0" masquerade; drop`, "eth0 eth1 others"},
}

func TestForwardOfAllKinds(t *testing.T) {
	EnterNamespace(t)
	makeLinks(t)
	var r Reader
	for _, c := range tried {
		hook := c.hook
		if hook == "" {
			hook = "type filter hook forward priority 0"
		}
		rules := strings.ReplaceAll(strings.ReplaceAll(c.rules, "; ", "\n"), ";", "")
		text := "flush ruleset\ntable inet t {\n" + c.before + "chain c {\n" + hook + "\n" + rules + "\n}\n}\n"
		load := exec.Command("nft", "-f", "-")
		load.Stdin = strings.NewReader(text)
		if out, err := load.CombinedOutput(); err != nil {
			if strings.Contains(string(out), "not supported") || strings.Contains(string(out), "No such file") {
				t.Logf("%s: not in this kernel", c.name)
				continue
			}
			t.Errorf("%s: %s%s", c.name, text, out)
			continue
		}
		f, err := r.Read(t.Context())
		if got := printedForward(f); err != nil || !sameWords(got, c.barred) {
			t.Errorf("%s: %s\nbars %q, want %q (%v)", c.name, c.rules, got, c.barred, err)
		}
	}
}

func sameWords(a, b string) bool {
	left, right := strings.Fields(a), strings.Fields(b)
	slices.Sort(left)
	slices.Sort(right)
	return slices.Equal(left, right)
}
