package nft

import (
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
)

// fenceChains returns the chains of the fence. answers are what proxies send to AppVMs.
func fenceChains(c firewall.Config, answers Rule) []chain {
	return slices.Concat(fenceHooks(aProxy(c), answers), waysOut(c), nameServers(), otherMachines())
}

// fenceHooks returns the chains at which the kernel asks the fence, and the one that refuses.
func fenceHooks(aProxy, answers Rule) []chain {
	return []chain{
		// The fence looks at every packet that a proxy sends, so that what it no longer allows ends at once. The first two rules are for
		// almost all of them: what a proxy sends to its AppVM, and to a public address where it has connected. They do not ask who sends:
		// others may send anything, and that question takes as long as the rest of a rule.
		//
		// Answers to clients of the proxy pass: they come from a port where only proxies listen, and begin nothing. Connection
		// tracking cannot tell, because it forgets, see translated. AppVMs are bound by IPv4 addresses.
		{"inet vifproxy", "output", hook{"filter", unix.NF_INET_LOCAL_OUT, beforeFilter}, []Rule{
			All(ipv4, toVif, answers, notSyn, Accept),
			All(TCP, noSyn, in(openPortsSet, dport), toOther, notToLo, jump("established")),
			All(aProxy, goTo("fence")),
		}},
		{"inet vifproxy", "postrouting", hook{"filter", unix.NF_INET_POST_ROUTING, beforeFilter}, []Rule{
			All(TCP, notSyn, Accept), // of whomever
			All(aProxy, in(barredAgainSet, oifname), drop),
			All(aProxy, jump("egress")),
			All(aProxy, drop),
		}},
		// A reset has the refused address as its source, and Qubes' antispoofing drops what only seems to come from an AppVM. So
		// towards AppVMs it is ICMP.
		{"inet vifproxy", "fence", hook{}, []Rule{
			jump("egress"),
			each(refusedSet.name, 0, counter, skuid),
			All(toVif, rejectByICMP),
			All(TCP, rejectReset),
			rejectByICMP,
		}},
	}
}

// waysOut returns the chains that lead a packet to what it may reach, by the interface by which it leaves.
func waysOut(c firewall.Config) []chain {
	return []chain{
		{"inet vifproxy", "egress", hook{}, slices.Concat([]Rule{
			// The daemon itself asks trials, see supervisor/trial.go. An AppVM's proxy grants no program here a connection.
			All(ipv4, toLo, fromProxy(c), notSyn, Accept),
			// In hook output, oifname is still that of before our nat. Askers have addresses of the loopback.
			All(udp, forward, is(originalDport, net16(53)...), jump("question")),
			All(ipv4, udp, toLo, backward, isResolver(c), in(answeringSet, ipSaddr, sport), Accept),
		}, ways(isResolver(c), "ask"), ways(isNoResolver(c), "reach"))},
		// It leaves, so it goes to another machine: no need to ask the routing tables for that.
		{"inet vifproxy", "established", hook{}, []Rule{
			// The address before anywhereSet: nft 1.1.3 leaves ipv4 and ipv6 out when it lists them, and does not load them the other way round.
			All(ipv4, in(leaveSet, oifname), notIn(barredSet, oifname), outside("forbidden4", ipDaddr), Accept),
			All(ipv4, outside("forbidden4", ipDaddr), in(anywhereSet, nfproto), notIn(barredSet, oifname), Accept),
			All(ipv6, in(leaveSet, oifname), notIn(barredSet, oifname), outside("forbidden6", ip6Daddr), Accept),
			All(ipv6, outside("forbidden6", ip6Daddr), in(anywhereSet, nfproto), notIn(barredSet, oifname), Accept),
		}},
		{"inet vifproxy", "reach", hook{}, []Rule{
			All(ipv4, TCP, in(literals.four, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(literals.six, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(ownedLiterals.four, skuid, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(ownedLiterals.six, skuid, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), in(wideLiterals.four, skuid, ipDaddr), Accept),
			All(ipv6, TCP, in(openPortsSet, dport), in(wideLiterals.six, skuid, ip6Daddr), Accept),
			All(toOther, unicast, ipv4, outside("own4", ipDaddr), jump("others")),
			All(toOther, unicast, ipv6, outside("own6", ip6Daddr), jump("others")),
		}},
	}
}

// nameServers returns the chains for what only the resolver may reach.
func nameServers() []chain {
	return []chain{
		{"inet vifproxy", "ask", hook{}, []Rule{
			All(udp, is(dport, net16(53)...), jump("resolve")),
			All(TCP, is(dport, net16(53)...), jump("resolve")),
			// Another program may have sent it on to a resolver of its own (nat in hook output).
			All(udp, forward, is(originalDport, net16(53)...), jump("redirected")),
			All(TCP, forward, is(originalDport, net16(53)...), jump("redirected")),
		}},
		{"inet vifproxy", "resolve", hook{}, []Rule{
			All(ipv4, in(resolvers.four, ipDaddr), Accept),
			All(ipv6, in(resolvers.six, ip6Daddr), Accept),
		}},
		{"inet vifproxy", "redirected", hook{}, []Rule{
			All(ipv4, in(resolvers.four, originalDaddr), Accept),
			All(ipv6, in(resolvers.six, originalIP6Daddr), Accept),
		}},
	}
}

// otherMachines returns the chains for machines that are not AppVMs.
func otherMachines() []chain {
	return []chain{
		{"inet vifproxy", "others", hook{}, []Rule{
			All(ipv4, TCP, in(openings.four, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(openings.six, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(owned.four, skuidTurned, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(owned.six, skuidTurned, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), in(wide.four, skuidTurned, ipDaddr), Accept),
			All(ipv6, TCP, in(openPortsSet, dport), in(wide.six, skuidTurned, ip6Daddr), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), outside("forbidden4", ipDaddr), jump("public")),
			All(ipv6, TCP, in(openPortsSet, dport), outside("forbidden6", ip6Daddr), jump("public")),
			All(ipv4, TCP, in(ownedPortsSet, skuid, dport), outside("forbidden4", ipDaddr), jump("public")),
			All(ipv6, TCP, in(ownedPortsSet, skuid, dport), outside("forbidden6", ip6Daddr), jump("public")),
		}},
		{"inet vifproxy", "public", hook{}, []Rule{
			// A proxy grants no connection from there either: who connects from an open port would be reached without a pin.
			All(TCP, noSyn, Accept),
			All(ipv4, TCP, in(pinned.four, skuid, ipDaddr), Accept),
			All(ipv6, TCP, in(pinned.six, skuid, ip6Daddr), Accept),
			All(ipv4, TCP, in(listedAddrs.four, skuid, ipDaddr), Accept),
			All(ipv6, TCP, in(listedAddrs.six, skuid, ip6Daddr), Accept),
			All(TCP, in(anyAddressSet, skuid), Accept),
		}},
	}
}

// ways returns the rules that lead to what a packet may reach by the interface by which it leaves.
func ways(who Rule, chain string) []Rule {
	return []Rule{
		All(toLo, who, jump(chain)),
		All(in(leaveSet, oifname), notIn(barredSet, oifname), who, jump(chain)),
		All(in(anywhereSet, nfproto), notIn(barredSet, oifname), who, jump(chain)),
	}
}
