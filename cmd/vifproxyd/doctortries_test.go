package main

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"vifproxy/internal/lab"
)

// resolvers has the firewall VM ask these, in place of the lab's.
func (s *site) resolvers(text string) {
	s.Helper()
	s.must(writeFile("/etc/netns/"+s.Name+"-fw/resolv.conf", []byte(text), 0o644))
}

const labResolvers = "nameserver 10.139.1.1\nnameserver 10.139.1.2\n"

// Each resolver is asked once, as a proxy asks it, and what is wrong with it is told with a remedy that helps.
func TestDoctorAsksResolvers(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.must(s.DoInternet(func() error {
		return exec.Command("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo").Run()
	}))
	s.startWork()
	s.says("doctor", "ok     resolvers    2 answer: 10.139.1.1, 10.139.1.2\n", "ok     trial        a connection comes about: work to bank.example:443\n")

	s.resolvers("nameserver 10.139.9.9\nnameserver 10.139.1.1\n")
	s.says("doctor", "note   resolvers    nobody answers questions at resolver 10.139.9.9; another one does\n", "ok     resolvers    10.139.1.1 answers\n")
	s.resolvers("nameserver 10.139.9.9\n")
	s.rules("work.10.137.0.11", `^shop\.example$`) // that nobody has asked for: a known name is answered while the servers are silent
	s.says("doctor", "wrong  resolvers    nobody answers questions at resolver 10.139.9.9\n", "write a resolver that answers into /etc/resolv.conf",
		"wrong  trial        a name does not resolve: work to shop.example:443\n")
	s.rules("work.10.137.0.11", bank)
	s.resolvers(labResolvers)
	s.says("doctor", "ok     resolvers    2 answer", "ok     trial ")

	s.inFirewall("nft", "add table ip other; add chain ip other in { type filter hook prerouting priority -300; }; "+
		"add rule ip other in ip saddr 10.139.1.1 drop")
	s.says("doctor", "wrong  resolvers    resolver 10.139.1.1 does not answer\n", "ok     resolvers    10.139.1.2 answers\n")
	s.inFirewall("nft", "delete table ip other; add table ip other; add chain ip other out { type filter hook output priority 0; }; "+
		"add rule ip other out meta skuid 1879048192-1912602623 udp dport 53 drop")
	s.says("doctor", "wrong  resolvers    rules of this VM let no question of a proxy out to 2 resolvers: 10.139.1.1, 10.139.1.2\n")
	s.inFirewall("nft", "delete table ip other")
	s.saysNoMore("wrong  resolvers")

	s.Host("bank.example", netip.MustParseAddr("198.18.0.9"))
	s.says("doctor", "wrong  resolvers    10.139.1.1, 10.139.1.2 answer with addresses of 198.18.0.0/15", "write the line `#: egress 198.18.0.0/15` into the rule file")
	s.rules("work.10.137.0.11", bank, "#: egress 198.18.0.0/15")
	s.saysNoMore("wrong  resolvers")
	s.says("doctor", "ok     trial ")
	s.opens("work", "https://bank.example/")
	s.stop()
}

// A chain of another program that is in the way is named, and where nothing is in the way, nothing is.
func TestDoctorNamesChainsInTheWay(t *testing.T) {
	onBoth(t, func(s *site) {
		s.startWork()
		ports := "61000-64999" // of proxies, as rules see them
		if s.way().Used {
			ports = fmt.Sprint(lab.ProxyPort)
		}
		s.says("doctor", "ok     others       no chain of another program is seen to be in the way\n")
		s.inFirewall("nft", "add table inet other; add chain inet other out { type filter hook output priority 10; }; "+
			"add rule inet other out meta skuid 1879048192-1912602623 tcp dport 443 drop")
		s.says("doctor", "wrong  trial        what the proxy sends does not leave this VM, as another program's rule drops it: work to bank.example:443\n",
			"wrong  others       what proxies send: dropped by table inet other, chain out, rule 1 (hook output)\n")
		s.explained(fails, "work", "https://bank.example/", "does not leave this VM")
		s.inFirewall("nft", "flush chain inet other out; add chain inet other out { policy drop; }; add rule inet other out oifname lo accept; "+
			"add rule inet other out tcp sport "+ports+" accept; add rule inet other out udp dport 53 accept")
		s.says("doctor", "wrong  others       what proxies send: dropped by table inet other, chain out, its policy (hook output)\n")
		s.inFirewall("nft", "add chain inet other out { policy accept; }; flush chain inet other out; "+
			"add rule inet other out tcp dport 443 reject with tcp reset")
		s.says("doctor", "wrong  trial        no connection comes about: work to bank.example:443\n",
			"wrong  others       what proxies send: dropped by table inet other, chain out, rule 1 (hook output)\n")
		s.inFirewall("nft", "flush table inet other; delete chain inet other out; add chain inet other in { type filter hook input priority 10; policy drop; }; "+
			"add rule inet other in ct state established accept; add rule inet other in iifname lo accept; add rule inet other in iifname eth0 accept")
		s.says("doctor", "wrong  others       table inet other, chain in, its policy (hook input), drops what work sends to its proxy\n")
		if r := s.Get("work", "http://bank.example/"); r.Status == 200 {
			t.Error("it is said to be dropped, and passes")
		}
		s.inFirewall("nft", "add rule inet other in iifname \"vif*\" tcp dport "+ports+" accept")
		s.says("doctor", "ok     others ")
		s.opens("work", "http://bank.example/")
		s.stop()
	})
}

// IPv6 that leads nowhere costs nothing: the resolver answers with addresses of IPv4 where there are some.
func TestIPv6ThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.Host("bank.example", netip.MustParseAddr("2001:db8:9::1"), netip.MustParseAddr("198.51.100.1"))
	s.startWork()
	s.inFirewall("ip", "-6", "address", "add", "fd00:5::2/64", "dev", "eth0", "nodad")
	s.inFirewall("ip", "-6", "route", "add", "default", "via", "fd00:5::1")
	s.inFirewall("nft", "add table inet six; add chain inet six out { type filter hook output priority 0; }; "+
		"add rule inet six out meta nfproto ipv6 tcp flags & syn == syn counter")
	for range 10 {
		s.opens("work", "http://bank.example/", "https://bank.example/")
	}
	if rules := s.inFirewall("nft", "list", "table", "inet", "six"); !strings.Contains(rules, "counter packets 0 ") {
		t.Errorf("connections by IPv6:\n%s", rules)
	}
	s.inFirewall("nft", "delete table inet six")
	s.stop()
}
