package forward

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ruleset"
)

// printedForward is what chains of hook forward bar, as text.
func printedForward(f firewall.Forward) string {
	var names []string
	for _, b := range f.Barred {
		names = append(names, b.Interface)
	}
	if f.Others != "" {
		names = append(names, "others")
	}
	return strings.Join(names, " ")
}

// links makes the interfaces of a firewall VM with a tunnel and a second uplink. AppVMs are in group 2.
func makeLinks(t *testing.T) {
	t.Helper()
	for _, pair := range [][2]string{{"eth0", "eth1"}, {"vif1.0", "vif2.0"}, {"wg0", "vif3.0"}} {
		makePair(t, pair[0], pair[1])
	}
}

func makePair(t *testing.T, a, b string) {
	t.Helper()
	Run(t, "", "ip", "link", "add", a, "type", "veth", "peer", "name", b)
	for _, name := range []string{a, b} {
		if strings.HasPrefix(name, "vif") {
			Run(t, "", "ip", "link", "set", name, "group", "2")
		}
	}
}

// inForward is a table with rules in a chain of hook forward.
func inForward(family, policy, rules string) string {
	return fmt.Sprintf("table %s t {\nchain c {\ntype filter hook forward priority 0\npolicy %s\n%s\n}\n}\n",
		family, policy, strings.ReplaceAll(rules, "; ", "\n"))
}

// forwards are rules, and by which interfaces proxies may not leave for them.
var forwards = []struct{ name, rules, barred string }{
	{"nothing", "", ""},
	{"kill switch", `oifname "eth0" drop`, "eth0"},
	{"rejects", `oifname "eth0" reject`, "eth0"},
	{"rejects with a reset", `oifname "eth0" meta l4proto tcp reject with tcp reset`, "eth0"},
	{"by index", `oif "eth0" drop`, "eth0"},
	{"by group", `oifgroup 0 drop`, "eth0 eth1 wg0 others"},
	{"several", `oifname { "eth0", "eth1" } drop`, "eth0 eth1"},
	{"all that begin so", `oifname "eth*" drop`, "eth0 eth1"},
	{"a set of such", `oifname { "eth*", "usb0" } drop`, "eth0 eth1 usb0"},
	{"one that is not there", `oifname "usb0" drop`, "usb0"},
	{"all but the tunnel", `oifname != "wg0" drop`, "eth0 eth1 others"},
	{"all but some", `oifname != { "wg0", "lo" } drop`, "eth0 eth1 others"},
	{"what comes from AppVMs", `iifname "vif*" oifname "eth0" drop`, "eth0"},
	{"from the index of one", `iif "vif1.0" oifname "eth0" drop`, "eth0"},
	{"from an index that came since", `iif 4711 oifname "eth0" drop`, "eth0"},
	{"by their group", `iifgroup 2 oifname "eth0" drop`, "eth0"},
	{"what does not come from the tunnel", `iifname != "wg0" oifname "eth0" drop`, "eth0"},
	{"pairs", `iifname . oifname { "vif1.0" . "eth0", "wg0" . "eth1" } drop`, "eth0"},
	{"a map of verdicts", `oifname vmap { "eth0" : drop, "wg0" : accept }`, "eth0"},
	{"pairs to verdicts", `iifname . oifname vmap { "vif1.0" . "eth0" : drop, "vif1.0" . "eth1" : accept }`, "eth0"},
	{"counted and logged", `oifname "eth0" counter log prefix "leak " drop`, "eth0"},
	{"their addresses", `ip saddr 10.137.0.0/16 oifname "eth0" drop`, "eth0"},
	{"an AppVM", `ip saddr 10.137.0.11 oifname "eth0" drop`, "eth0"},
	{"web", `oifname "eth0" tcp dport { 80, 443 } drop`, "eth0"},
	{"DNS", `oifname "eth0" udp dport 53 drop`, "eth0"},
	{"a range with the web in it", `oifname "eth0" tcp dport 1-1023 drop`, "eth0"},
	{"without a mark", `oifname "eth0" meta mark != 0xca6c drop`, "eth0"},
	{"not to a LAN", `oifname "eth0" ip daddr != 192.168.0.0/16 drop`, "eth0"},
	{"half of the world", `oifname "eth0" ip daddr 0.0.0.0/1 drop`, "eth0"},
	{"new", `oifname "eth0" ct state new drop`, "eth0"},
	{"established", `oifname "eth0" ct state established,related drop`, "eth0"},
	{"other programs may decide", `oifname "eth0" meta time > "2020-01-01" drop`, "eth0"},
	{"only the tunnel is accepted", `oifname "wg0" accept; drop`, "eth0 eth1 others"},
	{"the tunnel returns", `oifname "wg0" return; iifname "vif*" drop`, "eth0 eth1 others"},
	{"accepts that are no general ones", `oifname "eth0" ct state established,related accept; oifname "eth0" drop`, "eth0"},
	{"accepts of one port", `oifname "eth0" tcp dport 22 accept; oifname "eth0" drop`, "eth0"},

	{"by the routing table", `fib daddr oifname "eth0" drop`, "eth0"},
	{"by the routing table's index", `fib daddr oif "eth0" drop`, "eth0"},
	{"by kind", `meta oifkind "dummy" drop`, "others"}, // one that comes may be such
	{"all but a kind", `meta oifkind != "veth" drop`, "others"},
	{"everywhere, as ranges", `oifname "eth0" ip daddr vmap { 0.0.0.0/1 : drop, 128.0.0.0/1 : drop }`, "eth0"},
	{"everywhere, as one range", `oifname "eth0" ip daddr { 0.0.0.0/0 } drop`, "eth0"},
	{"some by a hash", `oifname "eth0" jhash ip saddr mod 2 0 drop`, "eth0"},
	{"some by their number", `oifname "eth0" numgen inc mod 2 vmap { 0 : drop, 1 : accept }`, "eth0"},
	{"marked by interface", `oifname "eth0" meta mark set 1; meta mark 1 drop`, "eth0"},
	{"marked by interface, in their connection", `oifname "eth0" ct mark set 1; ct mark & 1 == 1 drop`, "eth0"},
	{"marked by a map", `meta mark set oifname map { "eth0" : 1 }; meta mark 1 drop`, "eth0"},
	{"a map that drops all others", `oifname vmap { "wg*" : accept, * : drop }`, "eth0 eth1 others"},
	{"a map that accepts all others", `oifname vmap { "eth*" : drop, * : accept }`, "eth0 eth1"},
	{"an AppVM by each", `iifname . oifname { "vif1.0" . "eth0", "vif2.0" . "eth1" } accept; drop`, "eth0 eth1 wg0 others"},
	{"an AppVM by one", `iifname . oifname { "vif1.0" . "eth0" } accept; drop`, "eth1 wg0 others"},
	{"a protocol by each", `oifname . meta l4proto { "eth0" . tcp, "wg0" . udp } accept; drop`, "eth0 eth1 wg0 others"},
	{"without the mark of another", `oifname "wg0" meta mark set 1; meta mark != 1 drop`, "eth0 eth1 wg0 others"},
	{"the mark of another is accepted", `oifname "wg0" meta mark set 1; meta mark 1 accept; drop`, "eth0 eth1 others"},
	{"answers leave by another", `oifname "docker0" ct state new,established accept; drop`, "eth0 eth1 wg0 others"},

	{"only answers leave by another", `oifname "docker0" ct state established,related accept; drop`, ""},
	{"all of AppVMs", `iifgroup 2 drop`, ""},
	{"all of an AppVM", `ip saddr 10.137.0.11 drop`, ""},
	{"marked otherwise", `meta mark set 1; meta mark 1 drop`, ""},
	{"what comes by another", `meta iifkind "veth" drop`, ""},
	{"back by another", `fib saddr . iif oif missing drop`, ""},
	{"invalid", `oifname "eth0" ct state invalid drop`, ""},
	{"by a map of states", `oifname "eth0" ct state vmap { invalid : drop, established : accept }`, ""},
	{"to the LAN", `oifname "eth0" ip daddr 192.168.0.0/16 drop`, ""},
	{"to a whole byte", `oifname "eth0" ip daddr 10.0.0.0/8 drop`, ""},
	{"to several LANs", `oifname "eth0" ip daddr { 10.0.0.0/8, 192.168.0.0/16, 172.16.0.5 } drop`, ""},
	{"mail", `oifname "eth0" tcp dport { 25, 465 } drop`, ""},
	{"mail alone", `oifname "eth0" tcp dport 25 drop`, ""},
	{"ping", `oifname "eth0" meta l4proto icmp drop`, ""},
	{"too many at once", `oifname "eth0" limit rate over 100/second drop`, ""},
	{"from the index of another", `iif "wg0" oifname "eth0" drop`, ""},
	{"from elsewhere", `iifname "wg0" oifname "eth0" drop`, ""},
	{"from the uplink to AppVMs", `iifname "eth0" oifgroup 2 drop`, ""},
	{"AppVMs are accepted by a set", `iifname { "vif*", "wg0" } oifname "eth0" accept; oifname "eth0" drop`, ""},
	{"AppVMs are accepted before", `iifname "vif*" oifname "eth0" accept; oifname "eth0" drop`, ""},
	{"everything", `drop`, ""},
	{"everything of AppVMs", `iifname "vif*" drop`, ""},
	{"no AppVM to another", `oifgroup 2 drop; oifname "vif*" drop`, ""},
	{"clamped", `oifname "wg0" tcp flags syn tcp option maxseg size set rt mtu`, ""},
}

func TestForwardBars(t *testing.T) {
	for _, family := range []string{"ip", "inet"} {
		t.Run(family, func(t *testing.T) {
			EnterNamespace(t)
			makeLinks(t)
			var r Reader
			for _, c := range forwards {
				Run(t, "flush ruleset\n"+inForward(family, "accept", c.rules), "nft", "-f", "-")
				f, err := r.Read(t.Context())
				if got := printedForward(f); err != nil || got != c.barred {
					t.Errorf("%s: %s\nbars %q, want %q (%v)", c.name, c.rules, got, c.barred, err)
				}
			}
		})
	}
}

// Where rules stand: in chains that others lead to, in other families, behind a policy.
func TestForwardFollowsChains(t *testing.T) {
	EnterNamespace(t)
	makeLinks(t)
	const base = "type filter hook forward priority 0\n"
	for name, c := range map[string]struct{ text, barred, rule string }{
		"Qubes, custom-forward": {"table ip qubes {\nchain forward {\n" + base + "jump custom-forward\nct state invalid drop\n" +
			"iifgroup != 2 drop\noifgroup 2 drop\n}\nchain custom-forward {\ncounter\noifname eth0 drop\n}\n}",
			"eth0", "table ip qubes, chain custom-forward, rule 2"},
		"a jump by interface": {"table inet t {\nchain out {\nip saddr 10.0.0.0/8 drop\n}\nchain c {\n" + base + "oifname eth0 jump out\n}\n}",
			"eth0", "table inet t, chain out, rule 1"},
		"a jump by interface to what lets pass": {"table inet t {\nchain out {\naccept\n}\nchain c {\n" + base + "oifname wg0 jump out\ndrop\n}\n}",
			"eth0 eth1 others", "table inet t, chain c, rule 2"},
		"a goto": {"table inet t {\nchain out {\noifname eth1 drop\n}\nchain c {\n" + base + "goto out\noifname eth0 drop\n}\n}",
			"eth1", "table inet t, chain out, rule 1"},
		"a return": {"table inet t {\nchain c {\n" + base + "iifname vif* return\noifname eth0 drop\n}\n}", "", ""},
		"IPv6":     {inForward("ip6", "accept", "oifname eth0 drop"), "eth0", "table ip6 t, chain c, rule 1"},
		"a policy with exceptions": {inForward("ip", "drop", "oifname wg0 accept; ct state established accept"),
			"eth0 eth1 others", "table ip t, chain c, its policy"},
		"a policy without": {inForward("ip", "drop", "ct state established accept"), "", ""},
		"a tunnel's LAN":   {inForward("ip", "drop", "oifname wg0 ip daddr 10.8.0.0/24 accept"), "", ""},
		"not of IPv6":      {inForward("inet", "accept", "meta nfproto ipv4 oifname eth0 accept; meta nfproto ipv6 accept; oifname eth0 drop"), "", ""},
		"a second table": {inForward("ip", "accept", "oifname eth0 accept") + "table inet u {\nchain c {\n" + base + "oifname eth0 drop\n}\n}",
			"eth0", "table inet u, chain c, rule 1"},
		"another hook": {"table ip t {\nchain c {\ntype filter hook output priority 0\noifname eth0 drop\n}\n}", "", ""},
		"postrouting": {"table inet t {\nchain c {\ntype filter hook postrouting priority 0\niifname vif* oifname eth0 drop\n}\n}",
			"eth0", "table inet t, chain c, rule 1"},
		"a goto that comes back to a policy": {"table inet t {\nchain out {\n}\nchain c {\n" + base + "policy drop\noifname eth1 goto out\naccept\n}\n}",
			"eth1", "table inet t, chain c, its policy"},
		"a return to what drops": {"table inet t {\nchain x {\noifname eth1 return\naccept\n}\nchain c {\n" + base + "jump x\ndrop\n}\n}",
			"eth1", "table inet t, chain c, rule 2"},
		"some return to what drops": {"table inet t {\nchain x {\noifname eth1 meta mark 5 return\naccept\n}\nchain c {\n" + base + "jump x\ndrop\n}\n}",
			"eth1", "table inet t, chain c, rule 2"},
		"accepts below a limit with a name": {"table inet t {\nlimit l {\nrate 1/day\n}\nchain c {\n" + base +
			"oifname eth0 limit name l accept\noifname eth0 drop\n}\n}", "eth0", "table inet t, chain c, rule 2"},
		"accepts for a time": {"table inet t {\nset up {\ntype ifname\nflags timeout\nelements = { wg0 timeout 1h, eth1 timeout 1m }\n}\nchain c {\n" + base +
			"oifname @up accept\ndrop\n}\n}", "eth0 eth1 wg0 others", "table inet t, chain c, rule 2"},
		"an address in the place of a name": {"table inet t {\nchain c {\n" + base + "meta mark . oifname != { 5 . lo } " +
			"ip6 saddr . oifname { fd00::1 . eth0 } drop\n}\n}", "eth0", "table inet t, chain c, rule 1"},
		"asleep":       {"table inet t {\nflags dormant\nchain c {\n" + base + "oifname eth0 drop\n}\n}", "", ""},
		"nobody jumps": {"table ip t {\nchain x {\noifname eth0 drop\n}\nchain c {\n" + base + "}\n}", "", ""},
	} {
		Run(t, "flush ruleset\n"+c.text, "nft", "-f", "-")
		var r Reader
		f, err := r.Read(t.Context())
		if got := printedForward(f); err != nil || got != c.barred {
			t.Errorf("%s bars %q, want %q (%v)", name, got, c.barred, err)
		} else if len(f.Barred) > 0 && f.Barred[0].Rule != c.rule {
			t.Errorf("%s: by %s, want %s", name, f.Barred[0].Rule, c.rule)
		}
	}
}

// The rules that Qubes itself and iptables' programs make bar nothing.
func TestForwardOfQubesBarsNothing(t *testing.T) {
	for _, m := range Machines {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			makeLinks(t)
			m.LoadForeign(t)
			var r Reader
			if f, err := r.Read(t.Context()); err != nil || printedForward(f) != "" || f.Unread != "" {
				t.Errorf("bars %+v, %v", f, err)
			}
		})
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "internal", "lab", "r42.nft"))
	if err != nil {
		t.Fatal(err)
	}
	EnterNamespace(t)
	makeLinks(t)
	Run(t, string(text), "nft", "-f", "-")
	var r Reader
	if f, err := r.Read(t.Context()); err != nil || printedForward(f) != "" {
		t.Errorf("the lab's rules bar %+v, %v", f, err)
	}
}

// docker is what dockerd 20 makes of the chain: an AppVM's packets are forwarded nowhere.
const docker = `-P FORWARD DROP
-N DOCKER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT`

func TestForwardOfIptables(t *testing.T) {
	for _, variant := range []string{"nft", "legacy"} {
		for _, c := range []struct{ rules, barred string }{
			{"-A FORWARD -o eth0 -j DROP", "eth0"},
			{"-A FORWARD ! -o wg0 -j REJECT", "eth0 eth1 others"},
			{"-A FORWARD -i vif+ -o eth+ -j DROP", "eth0 eth1"},
			{"-N KILL\n-A FORWARD -o eth0 -j KILL\n-A KILL -m comment --comment \"no -o way\" -p udp -j DROP", "eth0"},
			{"-P FORWARD DROP\n-A FORWARD -i vif+ -o wg0 -j ACCEPT", "eth0 eth1 others"},
			{"-A FORWARD -o eth0 -m conntrack --ctstate NEW -j DROP", "eth0"},
			{"-A FORWARD -m devgroup --dst-group 7 -j DROP", "eth1"},
			{"-t mangle -A FORWARD -o eth0 -j DROP", "eth0"},
			{"-t mangle -A POSTROUTING -s 10.137.0.0/16 -o eth0 -j DROP", "eth0"},
			{"-t mangle -A FORWARD -o eth0 -j MARK --set-mark 1\n-A FORWARD -m mark --mark 1 -j DROP", "eth0"},
			{"-t mangle -A FORWARD -o wg0 -j MARK --set-mark 1\n-A FORWARD -m mark ! --mark 1/255 -j DROP", "eth0 eth1 wg0 others"},
			{docker, ""},
			{docker + "\n-A DOCKER -i vif+ -o docker0 -p tcp --dport 80 -j ACCEPT", "eth0 eth1 wg0 others"},
			{"-P FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", ""},
			{"-A FORWARD -o eth0 -d 10.0.0.0/8 -j DROP", ""},
			{"-A FORWARD -i wg0 -o eth0 -j DROP", ""},
			{"-A FORWARD -j DROP", ""},
			{"-A FORWARD -m policy --dir out --pol none -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -o eth0 -m policy --dir out --pol none -j DROP", "eth0"},
			{"-A FORWARD -m policy --dir out --pol ipsec --proto esp --reqid 5 -j ACCEPT\n-A FORWARD -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -o eth0 -m policy --dir out --pol ipsec -j DROP", ""},
			{"-A FORWARD -o eth0 -m policy --dir in --pol none -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -j NFQUEUE --queue-num 3", "eth0"},
			{"-A FORWARD -j NFQUEUE --queue-num 3 --queue-bypass", ""},
			{"-A FORWARD -o wg0 -j ACCEPT\n-A FORWARD -j NFQUEUE", "eth0 eth1 others"},
			{"-A FORWARD -o eth0 -p tcp -j SYNPROXY", "eth0"},
			{"-A FORWARD -m physdev --physdev-is-bridged --physdev-in vif1.0 -j ACCEPT\n-A FORWARD -j DROP", ""},
			{"-A FORWARD -m physdev --physdev-is-bridged ! --physdev-out eth1 -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -m devgroup --src-group 5 --dst-group 7 -j ACCEPT\n-A FORWARD -o eth1 -j DROP", "eth1"},
			{"-A FORWARD -o eth0 -m conntrack --ctstate DNAT -j DROP", "eth0"},
			{"-A FORWARD -o wg0 -j CONNMARK --set-mark 1\n-A FORWARD -m connmark ! --mark 1 -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -o eth0 -m recent --name r --set\n-A FORWARD -m recent --name r --rcheck -j DROP", "eth0 eth1 wg0 others"},
			{"-A FORWARD -m recent --name r --rcheck -j DROP", ""},
			{"-A FORWARD -m string --algo bm --string \"x -o none y\" -o eth0 -j DROP", "eth0"},
			{"-A FORWARD -d 128.0.0.0/1 -o eth0 -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -m addrtype ! --dst-type LOCAL -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -m time --timestart 22:00 -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -m statistic --mode random --probability 0.5 -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -p tcp -m multiport --dports 25,465 -j DROP", ""},
			{"-A FORWARD -o eth0 -p tcp -m multiport --dports 25,100:500 -j DROP", "eth0"},
			{"-A FORWARD -o eth0 -p tcp -m multiport ! --dports 25,465 -j DROP", "eth0"},
			{"-t mangle -A POSTROUTING -o eth0 -m owner ! --uid-owner 1000 -j DROP", "eth0"},
		} {
			t.Run(variant, func(t *testing.T) {
				EnterNamespace(t)
				makeLinks(t)
				Run(t, "", "ip", "link", "set", "eth1", "group", "7")
				for line := range strings.Lines(c.rules) {
					Run(t, "", "sh", "-c", "iptables-"+variant+" "+line)
				}
				var r Reader
				f, err := r.Read(t.Context())
				if got := printedForward(f); err != nil || got != c.barred || f.Unread != "" {
					t.Errorf("%s\nbars %q, want %q (%v, %s)", c.rules, got, c.barred, err, f.Unread)
				}
			})
		}
	}
}

// It is read again when rules or links have changed.
func TestForwardIsReadAgain(t *testing.T) {
	EnterNamespace(t)
	makeLinks(t)
	var r Reader
	read := func(want string) {
		t.Helper()
		f, err := r.Read(t.Context())
		if got := printedForward(f); err != nil || got != want {
			t.Errorf("bars %q, want %q (%v)", got, want, err)
		}
	}
	read("")
	Run(t, inForward("ip", "accept", `oifname "eth*" drop`), "nft", "-f", "-")
	read("eth0 eth1")
	makePair(t, "eth2", "vif4.0")
	r.LinksChanged()
	read("eth0 eth1 eth2")
	Run(t, "", "nft", "flush", "ruleset")
	read("")
}

// TestForwardOfALargeSet: a list of 50,000 addresses, as block lists have, is not read to its end.
func TestForwardOfALargeSet(t *testing.T) {
	EnterNamespace(t)
	makeLinks(t)
	var list strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&list, "5.%d.%d.%d,", i>>16, i>>8&255, i&255)
	}
	Run(t, "table inet t {\nset s {\ntype ipv4_addr\nelements = { "+list.String()+" }\n}\nchain c {\n"+
		"type filter hook forward priority 0\nip daddr @s drop\nip daddr @s oifname eth1 drop\noifname eth0 drop\n}\n}\n", "nft", "-f", "-")
	conn, err := ruleset.Dial()
	if err != nil {
		t.Fatal(err)
	}
	d := decoder{conn: conn, family: unix.NFPROTO_INET, table: "t"}
	for range 2 {
		all, whole, err := d.entries("s")
		if err != nil || whole || len(all) > 2*entriesMax {
			t.Errorf("%d elements, whole: %v (%v)", len(all), whole, err)
		}
	}
	var r Reader
	if f, err := r.Read(t.Context()); err != nil || printedForward(f) != "eth0 eth1" {
		t.Errorf("bars %q (%v)", printedForward(f), err)
	}
}

// Chains that lead to many others end somewhere.
func TestForwardOfManyJumps(t *testing.T) {
	EnterNamespace(t)
	makeLinks(t)
	var b strings.Builder
	b.WriteString("table ip t {\n")
	for i := range 14 {
		fmt.Fprintf(&b, "chain c%d {\n", i)
		if i > 0 {
			fmt.Fprintf(&b, "%s", strings.Repeat(fmt.Sprintf("jump c%d\n", i-1), 3))
		}
		b.WriteString("oifname nobody drop\n}\n")
	}
	b.WriteString("chain f {\ntype filter hook forward priority 0\njump c13\n}\n}\n")
	Run(t, b.String(), "nft", "-f", "-")
	var r Reader
	f, err := r.Read(t.Context())
	if err != nil || printedForward(f) != "eth0 eth1 nobody wg0 others" || !strings.Contains(f.Others, "too many rules") {
		t.Errorf("%+v, %v", f, err)
	}
}
