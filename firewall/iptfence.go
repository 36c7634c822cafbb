package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
)

// fenceRules are the chain that packets of proxies go through: what returns from it passes on to the rules of
// others. Its length depends on holes, not on proxies.
func fenceRules(f Fence, four bool) (rules []string) {
	add := func(format string, args ...any) {
		rules = append(rules, "-A VIFPROXY-OUT "+fmt.Sprintf(format, args...))
	}
	mine := func(a netip.Addr) bool { return a.Is4() == four }
	hole := func(h Hole, owner string) {
		if !mine(h.To.Addr()) {
			return
		}
		for _, ports := range dports(f.portsOf(h)) {
			add("-d %s -p tcp%s%s -j RETURN", h.To, owner, ports)
		}
	}
	add("-m conntrack --ctdir REPLY -j RETURN")
	for _, r := range f.Resolvers {
		if mine(r) {
			for _, protocol := range []string{"udp", "tcp"} {
				add("-d %s -p %s -m %s --dport 53 -j RETURN", netip.PrefixFrom(r, r.BitLen()), protocol, protocol)
			}
		}
	}
	for _, h := range f.Holes {
		hole(h, "")
	}
	for _, p := range f.Proxies {
		for _, h := range p.Holes {
			hole(h, fmt.Sprintf(" -m owner --uid-owner %d", p.UID))
		}
	}
	for _, net := range forbidden {
		if mine(net.Addr()) {
			add("-d %s -g VIFPROXY-NO", net)
		}
	}
	add("-m addrtype ! --dst-type UNICAST -g VIFPROXY-NO")
	add("-o vif+ -g VIFPROXY-NO")
	for _, ports := range dports(f.Ports) {
		add("-p tcp%s -j RETURN", ports)
	}
	add("-g VIFPROXY-NO")
	return rules
}

// dports match destination ports: one, or up to fifteen at a time (XT_MULTI_PORTS).
func dports(ports []uint16) (matches []string) {
	for some := range slices.Chunk(ports, 15) {
		if len(some) == 1 {
			matches = append(matches, fmt.Sprintf(" -m tcp --dport %d", some[0]))
		} else {
			matches = append(matches, " -m multiport --dports "+join(some, ","))
		}
	}
	return matches
}

// refuseRules are the chain of refused packets. It counts them by uid, which takes a rule for each proxy; but no
// other packet comes here. For vifs see the chain of the same task in vifproxy.nft.
func refuseRules(f Fence, four bool) (rules []string) {
	add := func(format string, args ...any) {
		rules = append(rules, "-A VIFPROXY-NO "+fmt.Sprintf(format, args...))
	}
	prohibited := "icmp6-adm-prohibited"
	if four {
		prohibited = "icmp-admin-prohibited"
	}
	for _, p := range f.Proxies {
		add("-m owner --uid-owner %d", p.UID)
	}
	add("-o vif+ -j REJECT --reject-with %s", prohibited)
	add("-p tcp -j REJECT --reject-with tcp-reset")
	add("-j REJECT --reject-with %s", prohibited)
	return rules
}

// counted is such a rule as the library lists it, with packets and bytes.
var counted = regexp.MustCompile(`^-A VIFPROXY-NO -m owner --uid-owner ([0-9]+) -c ([0-9]+) [0-9]+ *$`)

// count takes over what the rules have counted.
func (t *iptTable) count() error {
	if !t.there["VIFPROXY-NO"] {
		return nil
	}
	rules, err := t.lib.ListWithCounters(t.name, "VIFPROXY-NO")
	if err != nil {
		return fmt.Errorf("iptables: read counters of the fence: %w", err)
	}
	now := make(map[uint32]uint64)
	for _, rule := range rules {
		m := counted.FindStringSubmatch(rule)
		if m == nil {
			continue
		}
		uid, err1 := strconv.ParseUint(m[1], 10, 32)
		packets, err2 := strconv.ParseUint(m[2], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("iptables: read counters of the fence: %w", err)
		}
		now[uint32(uid)] = packets
	}
	t.refused.add(now)
	return nil
}
