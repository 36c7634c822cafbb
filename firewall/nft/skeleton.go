package nft

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
)

// The skeleton is everything of ours but the elements of ourSets: tables, chains, rules, and sets that never change. Its
// rules are always the same; backend/testdata/qubes-empty.golden shows them as nft lists them.
//
// Every rule accepts, under all the conditions that it needs. A packet that no rule accepts is refused at the end of the chain
// that calls, not at the end of the rule's own chain. So if another program takes a rule or a chain away, something closes and
// nothing opens:
//
//   - the fence is asked twice, in hook output for every packet and in hook postrouting for those that begin something. By
//     then also another program's nat or route chain has had its say about where the packet goes;
//   - the guard is in hook input, by the ports at which proxies are reached, and in hook output, by the uid of the socket that
//     answers.

// chain is a chain of ours, and its rules.
type chain struct {
	table, name string
	hook        hook // the zero hook is none: others jump here
	rules       []Rule
}

// hook is where the kernel calls a base chain.
type hook struct {
	kind     string // "filter" or "nat"
	number   uint32
	priority int32
}

// Priorities are relative to where the kernel's own things are (enum nf_ip_hook_priorities).
const (
	beforeTracking = -310 // and before "raw", where others decide what is tracked
	afterTracking  = -150 // a timeout can be given only then, and not before: "mangle"
	beforeFilter   = -10
	beforeSnat     = 99
)

// chains returns the chains of our own two tables. Bounds need modules that a kernel may lack; without them the chains let the
// same connections pass.
func chains(c firewall.Config, b *bounds) []chain {
	// A proxy grants a connection only to the AppVM that is bound to it, even if its port is not known.
	grants := All(TCP, synAck, notIn(bindingsSet, oifname, ipDaddr, sport), aProxy(c), drop)
	door, answers := translated(c, b.ofAppVM(c), grants), fromProxy(c)
	if c.Switchboard {
		door, answers = handedOver(c, b.ofAppVM(c), grants), All(TCP, is(sport, net16(c.ProxyPort)...))
	}
	chains := slices.Concat(door, shownGateways(c), fenceChains(c, answers), questionChains(), pingChains())
	if b == nil {
		return chains
	}
	return b.bound(chains, c)
}

// aProxy matches what a proxy or the resolver sends.
func aProxy(c firewall.Config) Rule {
	return between(skuidTurned, net32(c.FirstUID), net32(c.LastUID))
}

// fromProxy matches what comes from a port where only proxies listen.
func fromProxy(c firewall.Config) Rule {
	return All(TCP, between(sport, net16(c.FirstPort), net16(c.LastPort)))
}

// shownGateways returns the chain for AppVMs that are shown another gateway than they have.
func shownGateways(c firewall.Config) []chain {
	return []chain{
		// Such an AppVM reaches its proxy there too. It is tracked, so answers come from there.
		{"vifproxy", "shown", hook{"nat", unix.NF_INET_PRE_ROUTING, firewall.NatPriority}, []Rule{
			All(TCP, is(dport, net16(c.ProxyPort)...), dnatTo(shownMap, iifname, ipSaddr, ipDaddr)),
		}},
	}
}

// questionChains returns the chains that lead the questions of proxies to the resolver.
func questionChains() []chain {
	return []chain{
		// The C library asks the name servers of /etc/resolv.conf, or 127.0.0.1 where it cannot read that. The resolver answers, from
		// the address at which it was asked. A question by TCP or IPv6 is refused: nothing translates it.
		{"vifproxy", "askers", hook{"nat", unix.NF_INET_LOCAL_OUT, firewall.NatPriority}, []Rule{
			All(udp, is(dport, net16(53)...), dnatTo(askersMap, skuid)),
		}},
		// nat decides once for a flow. Without zones, a proxy that asks from the port of another one's last question is led to that one's
		// asker (Linux 6.18, findings/nat-forgets-who-asks.sh), so the uid has to fit. The C library asks again from another port.
		{"inet vifproxy", "question", hook{}, []Rule{
			All(ipv4, udp, in(askedSet, skuid, ipDaddr, dport), Accept),
		}},
	}
}

// pingChains returns the chain that keeps connection tracking away from pings of AppVMs to this machine, which Qubes accepts: each is kept
// for 30 s (nf_conntrack_icmp_timeout), so one AppVM could fill the table. The types are those that begin an entry (valid_new in
// net/netfilter/nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c of Linux 6.18), and answers between them. An error stays
// tracked: it may concern a connection that nat translates.
func pingChains() []chain {
	return []chain{
		{"inet vifproxy", "pings", hook{"filter", unix.NF_INET_PRE_ROUTING, beforeTracking}, []Rule{
			All(FromVif, is(l4proto, unix.IPPROTO_ICMP), is(icmpType, 8), local, notrack),
			All(FromVif, is(l4proto, unix.IPPROTO_ICMP), between(icmpType, []byte{13}, []byte{18}), local, notrack),
			All(FromVif, is(l4proto, unix.IPPROTO_ICMPV6), is(icmpType, 128), local, notrack),
			All(FromVif, is(l4proto, unix.IPPROTO_ICMPV6), is(icmpType, 139), local, notrack),
		}},
	}
}

// zones adds the rules that give the questions of each proxy, and the answers to them, a zone of connection tracking of their own: all
// ask from one address, and nat would take a question for one of the proxy that had the port before. The kernel sets a zone for a packet
// that is not tracked yet (nft_ct_set_zone_eval in net/netfilter/nft_ct.c, since Linux 4.11). A packet keeps its entry on its way over
// the loopback (nf_conntrack_in).
func zones(chains []chain, c firewall.Config) []chain {
	rules := []Rule{
		All(udp, is(dport, net16(53)...), ctZoneSet(zonesMap, skuid)),
		All(udp, isResolver(c), ctZoneSet(answerZonesMap, ipSaddr)),
	}
	at := hook{"filter", unix.NF_INET_LOCAL_OUT, beforeTracking}
	if i := slices.IndexFunc(chains, func(ch chain) bool { return ch.hook == at }); i >= 0 { // a second chain would take time for each packet
		chains[i].rules = append(chains[i].rules, rules...)
		return chains
	}
	return append(chains, chain{"vifproxy", "zones", at, rules})
}

func isResolver(c firewall.Config) Rule   { return is(skuid, host32(c.NamesUID)...) }
func isNoResolver(c firewall.Config) Rule { return isNot(skuid, host32(c.NamesUID)...) }

// isBound is a packet of an AppVM to the port at which it reaches its proxy.
var isBound = in(bindingsSet, iifname, ipSaddr, dport)

// translated returns the chains that lead AppVMs to the ports of their proxies by nat.
func translated(c firewall.Config, limits, grants Rule) []chain {
	return []chain{
		// Only packets that are addressed to the firewall VM itself: a port of another host is not ours to translate.
		{"vifproxy", "prerouting", hook{"nat", unix.NF_INET_PRE_ROUTING, firewall.NatPriority}, []Rule{
			All(TCP, is(dport, net16(c.ProxyPort)...), local, dnatTo(portsMap, iifname, ipSaddr)),
		}},
		// Qubes' firewall.py (qubes-core-agent 4.3) deletes the tracked connections of an AppVM that its new rules forbid.
		// If the proxy is the next to send, its packet begins a new entry, untranslated: translate it as before. The rule does
		// not ask for the uid, because a socket that was closed with data still to send has none.
		{"vifproxy", "postrouting", hook{"nat", unix.NF_INET_POST_ROUTING, beforeSnat}, []Rule{
			All(toVif, TCP, notSyn, in(guardedSet, sport), snatToPort(c.ProxyPort)),
		}},
		// The guard is in a base chain of our own, so that no accept of another chain skips it. It asks for the SYN flag, because
		// an old connection's tracking entry would make a new connection look established.
		{"vifproxy", "input", hook{"filter", unix.NF_INET_LOCAL_IN, beforeFilter}, []Rule{
			All(TCP, syn, isBound, limits, Accept),
			All(TCP, syn, in(guardedSet, dport), rejectReset),
		}},
		{"vifproxy", "output", hook{"filter", unix.NF_INET_LOCAL_OUT, beforeFilter}, []Rule{grants}},
	}
}

// handedOver returns the chains for connections that the switchboard hands over. They stay as they are on their way, at the port that
// all AppVMs use, and connection tracking has nothing to do with them: no entry that somebody deletes cuts them off.
func handedOver(c firewall.Config, limits, grants Rule) []chain {
	fromAppVM := All(FromVif, TCP, is(dport, net16(c.ProxyPort)...))
	toProxy := All(TCP, between(dport, net16(c.FirstPort), net16(c.LastPort)))
	return []chain{
		{"vifproxy", "untracked_in", hook{"filter", unix.NF_INET_PRE_ROUTING, beforeTracking}, []Rule{
			All(TCP, is(dport, net16(c.ProxyPort)...), in(handedSet, iifname, ipSaddr, ipDaddr), notrack, Accept),
			All(fromAppVM, local, notIn(maskedSet, iifname, ipSaddr), notrack),
		}},
		// The rule does not ask for the uid, because a socket that was closed with data still to send has none.
		{"vifproxy", "output", hook{"filter", unix.NF_INET_LOCAL_OUT, beforeTracking}, []Rule{
			grants,
			All(TCP, is(sport, net16(c.ProxyPort)...), in(handedSet, oifname, ipDaddr, ipSaddr), notrack, Accept),
			All(toVif, TCP, is(sport, net16(c.ProxyPort)...), notIn(maskedSet, oifname, ipDaddr), notrack),
		}},
		// An AppVM that is not bound gets no answer of whatever else may listen at that port. The switchboard lets 127.0.0.0/8 come to
		// the port of any proxy. With net.ipv4.conf.*.route_localnet=1 and without rp_filter, the kernel believes it if an AppVM says
		// that it is there.
		{"vifproxy", "input", hook{"filter", unix.NF_INET_LOCAL_IN, beforeFilter}, []Rule{
			All(is(ipSaddrFirst, 127), notFromLo, toProxy, drop),
			All(TCP, notSyn, Accept),
			All(TCP, isBound, limits, Accept),
			All(fromAppVM, rejectReset),
		}},
	}
}

// constants are sets that nobody can change while rules look into them (NFT_SET_CONSTANT).
var constants = []struct {
	*set
	nets []netip.Prefix
}{
	{&set{table: fenceTable, name: "own4", key: keys(ipv4Addr), interval: true}, ofFamily(true, firewall.Own(), netip.Prefix.Addr)},
	{&set{table: fenceTable, name: "own6", key: keys(ipv6Addr), interval: true}, ofFamily(false, firewall.Own(), netip.Prefix.Addr)},
	{&set{table: fenceTable, name: "forbidden4", key: keys(ipv4Addr), interval: true}, ofFamily(true, firewall.Forbidden(), netip.Prefix.Addr)},
	{&set{table: fenceTable, name: "forbidden6", key: keys(ipv6Addr), interval: true}, ofFamily(false, firewall.Forbidden(), netip.Prefix.Addr)},
}

// ofFamily are those that belong to IPv4, or to IPv6.
func ofFamily[T any](four bool, all []T, addr func(T) netip.Addr) []T {
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return addr(x).Is4() != four })
}
