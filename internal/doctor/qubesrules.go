package doctor

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// qubesRules are the rules of one AppVM as dom0 gives them to its netvm, in their order. The last one is the policy. See
// https://www.qubes-os.org/doc/vm-interface/#firewall-rules-in-4x.
type qubesRules []map[string]string

func parseQubesRules(text string) (rules qubesRules, ok bool) {
	var policy string
	lines := strings.Split(text, "\n")
	slices.Sort(lines) // qubes-firewall sorts them too
	for _, line := range lines {
		key, value, found := strings.Cut(line, " = ")
		if key == "policy" {
			policy = value
		}
		if n, err := strconv.Atoi(key); !found || err != nil || n < 0 {
			continue
		}
		rule := map[string]string{}
		for _, field := range strings.Fields(value) {
			name, value, _ := strings.Cut(field, "=")
			rule[name] = value
		}
		rules = append(rules, rule)
	}
	return append(rules, map[string]string{"action": policy}), policy != ""
}

// A traffic reports whether a rule is about some of the traffic, and whether it is about all of it.
type traffic func(rule map[string]string) (some, all bool)

// permits reports whether some of the traffic passes. The first rule that is about a packet decides.
func (rules qubesRules) permits(t traffic) bool {
	for _, rule := range rules {
		some, all := t(rule)
		if some && rule["action"] == "accept" {
			return true
		}
		if all {
			return false
		}
	}
	return false
}

func tcpAnywhere(rule map[string]string) (some, all bool) {
	some = anywhere(rule) && oneOf(rule["proto"], "", "tcp") && rule["specialtarget"] == ""
	return some, some && rule["dstports"] == ""
}

func dns(rule map[string]string) (some, all bool) {
	some = oneOf(rule["proto"], "", "udp", "tcp") && oneOf(rule["specialtarget"], "", "dns") && anywhere(rule) &&
		hasPort(rule["dstports"], 53)
	return some, some && rule["proto"] == ""
}

func icmp(rule map[string]string) (some, all bool) {
	some = anywhere(rule) && oneOf(rule["proto"], "", "icmp") && rule["specialtarget"] == ""
	return some, some && rule["icmptype"] == ""
}

// oneOf reports whether a value is one of several.
func oneOf(value string, values ...string) bool { return slices.Contains(values, value) }

// anywhere reports whether a rule is about all destinations, or about so many that no site was meant.
func anywhere(rule map[string]string) bool {
	if rule["dsthost"] != "" || rule["dst6"] != "" {
		return false
	}
	const site = 8 // a site has no shorter prefix
	prefix, err := netip.ParsePrefix(rule["dst4"])
	return rule["dst4"] == "" || err == nil && prefix.Bits() < site
}

// hasPort reports whether a range such as 53-53 contains a port. No range contains all ports.
func hasPort(ports string, port int) bool {
	if ports == "" {
		return true
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	low, err1 := strconv.Atoi(first)
	high, err2 := strconv.Atoi(last)
	return err1 == nil && err2 == nil && low <= port && port <= high
}
