package forward

import (
	"strings"
	"testing"

	. "vifproxy/firewall/firewalltest"
)

// inQubes is Qubes' own chain of hook forward, with what a person has added.
func inQubes(custom string) string {
	return "table ip qubes {\nchain custom-forward {\n" + custom + "\n}\nchain forward {\ntype filter hook forward priority 0\njump custom-forward\n" +
		"ct state invalid counter drop\nct state related,established accept\niifgroup != 2 counter drop\noifgroup 2 counter drop\n}\n}\n"
}

// people are rulesets as people and their programs write them, in our words, and by which interfaces proxies may not leave for them. eth0 is
// the uplink, and wg0 the tunnel. Lines that begin with '-' are for iptables.
var people = []struct{ name, rules, barred string }{
	{"Qubes, nothing added", inQubes(""), ""},
	{"Qubes, one AppVM reaches another", inQubes("ip saddr 10.137.0.11 ip daddr 10.137.0.12 ct state new,established,related counter accept"), ""},
	{"Qubes, guides to VPNs", inQubes("oifname wg0 tcp flags syn tcp option maxseg size set rt mtu\noifname eth0 counter drop\niifname eth0 counter drop"), "eth0"},
	{"Qubes, a script for WireGuard", inQubes("ct state related,established counter accept\noifname \"wg*\" tcp flags syn tcp option maxseg size set rt mtu counter\n" +
		"iifname \"vif*\" oifname \"wg*\" counter accept\ncounter reject"), "eth0 eth1 others"},
	{"Qubes 4.1, guides to VPNs", "-I FORWARD -o eth0 -j DROP\n-I FORWARD -i eth0 -j DROP", "eth0"},
	{"Qubes 4.1, its chain", "-P FORWARD DROP\n-N QBS-FORWARD\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n" +
		"-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j QBS-FORWARD\n-A FORWARD -i vif+ -o vif+ -j DROP\n" +
		"-A FORWARD -i vif+ -j ACCEPT\n-A FORWARD -j DROP", ""},
	{"Xen's scripts", "-A FORWARD -m physdev --physdev-is-bridged --physdev-in vif1.0 -j ACCEPT\n" +
		"-A FORWARD -m physdev --physdev-is-bridged --physdev-out vif1.0 -j ACCEPT", ""},

	{"wg-quick", "table ip wg {\nchain preraw {\ntype filter hook prerouting priority -300\niifname != wg0 ip daddr 10.8.0.2 fib saddr type != local drop\n}\n" +
		"chain premangle {\ntype filter hook prerouting priority -150\nmeta l4proto udp meta mark set ct mark\n}\n" +
		"chain postmangle {\ntype filter hook postrouting priority -150\nmeta l4proto udp meta mark 51820 ct mark set meta mark\n}\n}\n", ""},
	{"a kill switch of this VM's own", "-A OUTPUT ! -o wg0 -m mark ! --mark 51820 -m addrtype ! --dst-type LOCAL -j REJECT", ""},
	{"Mullvad", "table inet mullvad {\nchain pre {\ntype filter hook prerouting priority -199\nip saddr 203.0.113.9 udp sport 51820 meta mark set 0x6d6f6c65\n" +
		"iif != wg0 ct mark 0xf41 meta mark set 0x6d6f6c65\n}\n" +
		"chain forward {\ntype filter hook forward priority 0\npolicy drop\nct mark 0xf41 accept\n" +
		"udp sport 68 ip daddr 255.255.255.255 udp dport 67 accept\nip6 daddr fe80::/10 icmpv6 type nd-neighbor-solicit accept\n" +
		"oif wg0 udp dport 53 ip daddr 10.64.0.1 accept\noif wg0 tcp dport 53 ip daddr 10.64.0.1 accept\n" +
		"udp dport 53 reject\ntcp dport 53 reject with tcp reset\n" +
		"oif wg0 accept\niif wg0 ct state established,related accept\nip daddr 192.168.0.0/16 accept\nip saddr 192.168.0.0/16 accept\nreject\n}\n" +
		"chain nat {\ntype nat hook postrouting priority 100\noif wg0 ct mark 0xf41 drop\noif != lo ct mark 0xf41 masquerade\n}\n}\n", "eth0 eth1 others"},
	// The rule about addresses of its own may concern an AppVM. If an exit node is used, --egress-interface has to name it.
	{"Tailscale", "-N ts-forward\n-A FORWARD -j ts-forward\n-A ts-forward -i tailscale0 -j MARK --set-xmark 0x40000/0xff0000\n" +
		"-A ts-forward -m mark --mark 0x40000/0xff0000 -j ACCEPT\n-A ts-forward -s 100.64.0.0/10 -o tailscale0 -j DROP\n" +
		"-A ts-forward -o tailscale0 -j ACCEPT", "tailscale0"},

	{"Docker", "-P FORWARD DROP\n-N DOCKER\n-N DOCKER-FORWARD\n-N DOCKER-ISOLATION-1\n-N DOCKER-ISOLATION-2\n-N DOCKER-USER\n" +
		"-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" +
		"-A DOCKER-FORWARD -j DOCKER-ISOLATION-1\n-A DOCKER-FORWARD -o docker0 -j DOCKER\n-A DOCKER-FORWARD -i docker0 -j ACCEPT\n" +
		"-A DOCKER-ISOLATION-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-2\n-A DOCKER-ISOLATION-2 -o docker0 -j DROP\n" +
		"-A DOCKER ! -i docker0 -o docker0 -j DROP\n-A DOCKER-USER -j RETURN", "docker0"},
	{"libvirt", "table ip libvirt_network {\nchain guest_cross {\niifname virbr0 oifname virbr0 counter accept\n}\n" +
		"chain guest_input {\noifname virbr0 ip daddr 192.168.122.0/24 ct state established,related counter accept\noifname virbr0 counter reject\n}\n" +
		"chain guest_output {\nip saddr 192.168.122.0/24 iifname virbr0 counter accept\niifname virbr0 counter reject\n}\n" +
		"chain forward {\ntype filter hook forward priority 0\njump guest_cross\njump guest_input\njump guest_output\n}\n}\n", "virbr0"},
	{"LXD", "table inet lxd {\nchain fwd.lxdbr0 {\ntype filter hook forward priority 0\nip version 4 oifname lxdbr0 accept\nip version 4 iifname lxdbr0 accept\n}\n}\n", ""},
	{"firewalld", "table inet firewalld {\nchain pre {\ntype filter hook prerouting priority -290\nmeta nfproto ipv6 fib saddr . mark . iif oif missing drop\n}\n" +
		"chain FORWARD {\ntype filter hook forward priority 10\nct state established,related accept\nct status dnat accept\niifname lo accept\nct state invalid drop\n" +
		"ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002:7f00::/24 } reject\njump ZONES\nreject with icmpx type admin-prohibited\n}\n" +
		"chain ZONES {\niifname eth1 goto public\ngoto public\n}\nchain public {\njump public_allow\nreject with icmpx type admin-prohibited\n}\n" +
		"chain public_allow {\noifname eth0 accept\n}\n}\n", "eth1 wg0 others"},
	{"firewalld forwards nothing", "table inet firewalld {\nchain FORWARD {\ntype filter hook forward priority 10\nct state established,related accept\n" +
		"ct status dnat accept\nct state invalid drop\nreject with icmpx type admin-prohibited\n}\n}\n", ""},
	{"ufw", "-P FORWARD DROP\n-N before\n-N user\n-A FORWARD -j before\n-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" +
		"-A before -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A before -j user", ""},
	{"ufw route allow", "-P FORWARD DROP\n-N before\n-N user\n-A FORWARD -j before\n-A before -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n" +
		"-A before -j user\n-A user -i vif+ -o wg0 -j ACCEPT", "eth0 eth1 others"},
	{"OpenWrt", "table inet fw4 {\nchain forward {\ntype filter hook forward priority 0\npolicy drop\nct state vmap { established : accept, related : accept }\n" +
		"iifname \"vif*\" jump lan\nreject\n}\nchain lan {\njump to_wan\n}\nchain to_wan {\nmeta nfproto ipv4 oifname eth0 ct state invalid counter drop\n" +
		"oifname eth0 counter accept\n}\n}\n", "eth1 wg0 others"},
	{"Whonix", "-P FORWARD DROP\n-A FORWARD -j REJECT --reject-with icmp-admin-prohibited", ""},
	{"shares of the uplink", "table inet qos {\nchain post {\ntype filter hook postrouting priority -150\noifname eth0 tcp dport 22 ip dscp set cs6\n" +
		"oifname eth0 meta priority set 1:10\nct state new tcp flags & (fin|syn|rst|ack) != syn drop\n}\n}\n", ""},
}

func TestForwardOfWhatPeopleHave(t *testing.T) {
	for _, c := range people {
		t.Run(c.name, func(t *testing.T) {
			EnterNamespace(t)
			makeLinks(t)
			if strings.HasPrefix(c.rules, "-") {
				for line := range strings.Lines(c.rules) {
					Run(t, "", "sh", "-c", "iptables-nft "+line)
				}
			} else {
				Run(t, c.rules, "nft", "-f", "-")
			}
			var r Reader
			if f, err := r.Read(t.Context()); err != nil || !sameWords(printedForward(f), c.barred) {
				t.Errorf("bars %q, want %q (%v)\n%+v", printedForward(f), c.barred, err, f)
			}
		})
	}
}
