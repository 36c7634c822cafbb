package nft

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// The skeleton is everything of ours but the elements of ourSets: tables, chains, rules, and sets that never change. Its
// rules are always the same; testdata/qubes-empty.golden shows them as nft lists them.
//
// Every rule accepts, under all the conditions that it needs, and what no rule accepts is refused at the end of a chain
// that calls it, not of its own. So a rule or a chain that another program takes away closes something, and opens nothing:
//
//   - the fence is asked twice, in hook output for every packet and in hook postrouting for those that begin something. By
//     then also another program's nat or route chain has had its say about where the packet goes;
//   - the guard is in hook input, by the ports that proxies have, and in hook output, by the uid of the socket that answers.

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
	afterTracking = -150 // a timeout can be given only then: "mangle"
	beforeFilter  = -10
	beforeSnat    = 99
)

// chains are those of our own two tables. Without bounds, which take modules that a kernel may lack, they let the same
// connections pass.
func chains(c firewall.Config, b *bounds) []chain {
	aProxy := between(skuidTurned, net32(c.FirstUID), net32(c.LastUID))
	fromProxy := All(TCP, between(sport, net16(c.FirstPort), net16(c.LastPort)))
	bound := in(bindingsSet, iifname, ipSaddr, dport)
	chains := []chain{
		// Only what is addressed to the firewall VM itself: the port of another host is none of our business.
		{"vifproxy", "prerouting", hook{"nat", unix.NF_INET_PRE_ROUTING, firewall.NatPriority}, []Rule{
			All(TCP, is(dport, net16(c.ProxyPort)...), local, dnatTo(portsMap, iifname, ipSaddr)),
		}},
		// Qubes' firewall.py (qubes-core-agent 4.3) deletes the tracked connections of an AppVM that its new rules forbid.
		// If the proxy is the next to send, its packet begins a new entry, untranslated: translate it as before. Not by uid, as
		// a socket that was closed with data still to send has none.
		{"vifproxy", "postrouting", hook{"nat", unix.NF_INET_POST_ROUTING, beforeSnat}, []Rule{
			All(toVif, TCP, notSyn, in(guardedSet, sport), snatToPort(c.ProxyPort)),
		}},
		// The guard. In a base chain of our own, so that no accept of another chain skips it. By SYN flag, since an old
		// connection's tracking entry would make a new connection look established.
		{"vifproxy", "input", hook{"filter", unix.NF_INET_LOCAL_IN, beforeFilter}, []Rule{
			All(TCP, syn, in(guardedSet, dport), jump("guard")),
			All(TCP, syn, in(guardedSet, dport), rejectReset),
		}},
		{"vifproxy", "guard", hook{}, []Rule{
			All(TCP, bound, Accept),
		}},
		// The same for any proxy, whether its port is known or not. It grants no connection but to whom it is bound.
		{"vifproxy", "output", hook{"filter", unix.NF_INET_LOCAL_OUT, beforeFilter}, []Rule{
			All(TCP, synAck, aProxy, notIn(bindingsSet, oifname, ipDaddr, sport), drop),
		}},

		// The fence. It looks at every packet that a proxy sends, so that what it does not allow any more ends at once.
		{"inet vifproxy", "output", hook{"filter", unix.NF_INET_LOCAL_OUT, beforeFilter}, []Rule{
			All(aProxy, goTo("fence")),
		}},
		{"inet vifproxy", "postrouting", hook{"filter", unix.NF_INET_POST_ROUTING, beforeFilter}, []Rule{
			All(aProxy, TCP, notSyn, Accept),
			All(aProxy, in(barredAgainSet, oifname), drop),
			All(aProxy, jump("egress")),
			All(aProxy, drop),
		}},
		// A reset has the address that was not to be reached as its source, and Qubes' antispoofing drops what seems to
		// come from an AppVM and does not; towards AppVMs it is ICMP.
		{"inet vifproxy", "fence", hook{}, []Rule{
			jump("egress"),
			each(refusedSet.name, 0, counter, skuid),
			All(toVif, rejectByICMP),
			All(TCP, rejectReset),
			rejectByICMP,
		}},
		// Answers to those who connected to the proxy pass: they come from a port where only proxies listen, and do not
		// begin anything. Connection tracking would not do: it forgets, see postrouting above. AppVMs are bound by IPv4 addresses.
		{"inet vifproxy", "egress", hook{}, []Rule{
			All(ipv4, toVif, fromProxy, notSyn, Accept),
			// The daemon itself asks trials, see supervisor/trial.go. An AppVM's proxy grants nobody here a connection.
			All(ipv4, toLo, fromProxy, notSyn, Accept),
			All(toLo, jump("reach")),
			All(in(leaveSet, oifname), notIn(barredSet, oifname), jump("reach")),
			All(in(anywhereSet, nfproto), notIn(barredSet, oifname), jump("reach")),
		}},
		{"inet vifproxy", "reach", hook{}, []Rule{
			All(udp, is(dport, net16(53)...), jump("resolve")),
			All(TCP, is(dport, net16(53)...), jump("resolve")),
			// Another program may have sent it on to a resolver of its own (nat in hook output).
			All(udp, forward, is(originalDport, net16(53)...), jump("redirected")),
			All(TCP, forward, is(originalDport, net16(53)...), jump("redirected")),
			All(ipv4, TCP, in(literalSets, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(literalSets+1, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(ownedLiteralSets, skuid, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(ownedLiteralSets+1, skuid, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), in(wideLiteralSets, skuid, ipDaddr), Accept),
			All(ipv6, TCP, in(openPortsSet, dport), in(wideLiteralSets+1, skuid, ip6Daddr), Accept),
			All(toOther, unicast, ipv4, outside("own4", ipDaddr), jump("others")),
			All(toOther, unicast, ipv6, outside("own6", ip6Daddr), jump("others")),
		}},
		{"inet vifproxy", "resolve", hook{}, []Rule{
			All(ipv4, in(resolverSets, ipDaddr), Accept),
			All(ipv6, in(resolverSets+1, ip6Daddr), Accept),
		}},
		{"inet vifproxy", "redirected", hook{}, []Rule{
			All(ipv4, in(resolverSets, originalDaddr), Accept),
			All(ipv6, in(resolverSets+1, originalIP6Daddr), Accept),
		}},
		// Other machines, which are no AppVMs.
		{"inet vifproxy", "others", hook{}, []Rule{
			All(ipv4, TCP, in(holeSets, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(holeSets+1, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(ownedSets, skuidTurned, ipDaddr, dport), Accept),
			All(ipv6, TCP, in(ownedSets+1, skuidTurned, ip6Daddr, dport), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), in(wideSets, skuidTurned, ipDaddr), Accept),
			All(ipv6, TCP, in(openPortsSet, dport), in(wideSets+1, skuidTurned, ip6Daddr), Accept),
			All(ipv4, TCP, in(openPortsSet, dport), outside("forbidden4", ipDaddr), Accept),
			All(ipv6, TCP, in(openPortsSet, dport), outside("forbidden6", ip6Daddr), Accept),
			All(ipv4, TCP, in(ownedPortsSet, skuid, dport), outside("forbidden4", ipDaddr), Accept),
			All(ipv6, TCP, in(ownedPortsSet, skuid, dport), outside("forbidden6", ip6Daddr), Accept),
		}},
	}
	if b == nil {
		return chains
	}
	for i := range chains {
		if guard := &chains[i]; guard.table == "vifproxy" && guard.name == "guard" {
			guard.rules = append([]Rule{
				All(TCP, bound, each(ratesSet.name, rateMemory, over(b.rate, b.burst), iifname, ipSaddr), rejectReset),
				All(TCP, bound, each(heldSet.name, 0, ctCountOver(b.held), iifname, ipSaddr), rejectReset),
			}, guard.rules...)
		}
	}
	return append(chains,
		chain{"vifproxy", "timeouts_in", hook{"filter", unix.NF_INET_PRE_ROUTING, afterTracking}, []Rule{
			All(fromVif, TCP, syn, is(dport, net16(c.ProxyPort)...), local, ctTimeoutSet(tcpTimeouts)),
		}},
		chain{"vifproxy", "timeouts_out", hook{"filter", unix.NF_INET_LOCAL_OUT, afterTracking}, []Rule{
			All(aProxy, TCP, syn, ctTimeoutSet(tcpTimeouts)),
			All(aProxy, udp, ctTimeoutSet(udpTimeouts)),
		}})
}

// constants are sets that nobody can change while rules look into them (NFT_SET_CONSTANT).
var constants = []struct {
	set
	nets []netip.Prefix
}{
	{set{setName{"inet vifproxy", "own4"}, keys(ipv4Addr), nil, true}, ofFamily(true, firewall.Own(), netip.Prefix.Addr)},
	{set{setName{"inet vifproxy", "own6"}, keys(ipv6Addr), nil, true}, ofFamily(false, firewall.Own(), netip.Prefix.Addr)},
	{set{setName{"inet vifproxy", "forbidden4"}, keys(ipv4Addr), nil, true}, ofFamily(true, firewall.Forbidden(), netip.Prefix.Addr)},
	{set{setName{"inet vifproxy", "forbidden6"}, keys(ipv6Addr), nil, true}, ofFamily(false, firewall.Forbidden(), netip.Prefix.Addr)},
}

// ofFamily are those that belong to IPv4, or to IPv6.
func ofFamily[T any](four bool, all []T, addr func(T) netip.Addr) []T {
	return slices.DeleteFunc(slices.Clone(all), func(x T) bool { return addr(x).Is4() != four })
}

// replaceAll is the transaction that replaces everything of ours by the skeleton with what want says. It is valid only as
// long as before holds: the handles of the jumps are in it. Where Qubes has a chain for users, and qubes says so, that is
// included.
func (n *Backend) replaceAll(before snapshot, want firewall.State, b *bounds, qubes bool) (messages [][]byte) {
	put := func(message ...[]byte) { messages = append(messages, message...) }
	put(removeTables(before)...)
	for _, table := range []string{"vifproxy", "inet vifproxy"} {
		put(about(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, table, nil))
	}
	for _, s := range ourSets {
		if s.table != "qubes" {
			put(s.declare())
		}
	}
	put(dynamic(refusedSet, 0, 65535, uid))
	for _, set := range constants {
		put(set.declare(unix.NFT_SET_CONSTANT), set.fill(set.nets))
	}
	if b != nil {
		put(declareBounds()...)
	}
	chains := chains(n.cfg, b)
	for _, chain := range chains {
		put(chain.declare())
	}
	for _, chain := range chains {
		for _, r := range chain.rules {
			put(chain.append(r))
		}
	}
	if qubes {
		put(removeRules(before)...)
		put(removeEmpty(before)...)
		put(ourSets[acceptSet].declare())
		accepts := chain{"qubes", "vifproxy-input", hook{}, nil}
		put(accepts.declare(), accepts.append(All(TCP, in(acceptSet, iifname, ipSaddr, dport), Accept)))
		user := chain{"qubes", "custom-input", hook{}, nil}
		put(user.insert(jump("vifproxy-input"), "vifproxy"))
	}
	elements := elementsOf(want)
	for i, s := range ourSets {
		var own []element
		if own, elements = ofSet(i, elements); i != acceptSet || qubes {
			put(change(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s, own)...)
		}
	}
	return messages
}

// removeTables takes our own tables away, as far as they are there.
func removeTables(before snapshot) (messages [][]byte) {
	for table, there := range map[string]bool{"vifproxy": before.ownTable, "inet vifproxy": before.fenceTable} {
		if there {
			messages = append(messages, about(unix.NFT_MSG_DELTABLE, 0, table, nil))
		}
	}
	return messages
}

// removeRules takes what an earlier skeleton has put into Qubes' table away, but for a chain and a set that may still be in
// use; removeEmpty takes these.
func removeRules(before snapshot) (messages [][]byte) {
	for _, handle := range before.jumps {
		messages = append(messages, about(unix.NFT_MSG_DELRULE, 0, "qubes", netlink.Append(
			netlink.AppendString(nil, unix.NFTA_RULE_CHAIN, "custom-input"), unix.NFTA_RULE_HANDLE, net64(handle)...)))
	}
	if before.acceptChain {
		messages = append(messages, about(unix.NFT_MSG_DELRULE, 0, "qubes", netlink.AppendString(nil, unix.NFTA_RULE_CHAIN, "vifproxy-input")))
	}
	return messages
}

func removeEmpty(before snapshot) (messages [][]byte) {
	if before.acceptChain {
		messages = append(messages, about(unix.NFT_MSG_DELCHAIN, 0, "qubes", netlink.AppendString(nil, unix.NFTA_CHAIN_NAME, "vifproxy-input")))
	}
	if before.acceptSet {
		messages = append(messages, about(unix.NFT_MSG_DELSET, 0, "qubes", netlink.AppendString(nil, unix.NFTA_SET_NAME, "vifproxy")))
	}
	return messages
}

// about is a request about a table, or something in it.
func about(request, flags uint16, table string, attrs []byte) []byte {
	t := setName{table: table}
	return ruleset.Message(request, t.family(), flags, append(netlink.AppendString(nil, unix.NFTA_TABLE_NAME, t.bare()), attrs...))
}

// declare makes the chain, without rules.
func (c chain) declare() []byte {
	attrs := netlink.AppendString(nil, unix.NFTA_CHAIN_NAME, c.name)
	if c.hook.kind != "" {
		attrs = netlink.AppendNested(attrs, unix.NFTA_CHAIN_HOOK, func(to []byte) []byte {
			to = netlink.Append(to, unix.NFTA_HOOK_HOOKNUM, net32(c.hook.number)...)
			return netlink.Append(to, unix.NFTA_HOOK_PRIORITY, net32(uint32(c.hook.priority))...)
		})
		attrs = netlink.Append(attrs, unix.NFTA_CHAIN_POLICY, net32(1)...) // accept
		attrs = netlink.AppendString(attrs, unix.NFTA_CHAIN_TYPE, c.hook.kind)
	}
	return about(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c.table, attrs)
}

// append adds a rule at the end of the chain.
func (c chain) append(r Rule) []byte {
	return about(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, c.table, c.with(r))
}

// insert puts one at its begin, with a comment as nft stores it.
func (c chain) insert(r Rule, comment string) []byte {
	attrs := netlink.Append(c.with(r), unix.NFTA_RULE_USERDATA, []byte(userdata(comment))...)
	return about(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE, c.table, attrs)
}

func (c chain) with(r Rule) []byte {
	attrs := netlink.AppendString(nil, unix.NFTA_RULE_CHAIN, c.name)
	return netlink.Append(attrs, unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, r...)
}

// userdata is a comment as nft stores it: type, length, value.
func userdata(comment string) string { return "\x00" + string(rune(len(comment)+1)) + comment + "\x00" }

// outside matches addresses that are not in a constant set.
func outside(set string, addr field) Rule { return lookup(set, unix.NFT_LOOKUP_F_INV, addr) }

// declare makes the set, without elements.
func (s set) declare(flags ...uint32) []byte {
	return declare(s, append(flags, 0)[0], 0)
}

// dynamic declares a set that rules fill, with room for so many elements.
func dynamic(s setName, flags uint32, room uint32, parts ...datatype) []byte {
	return declare(set{s, parts, nil, false}, unix.NFT_SET_EVAL|flags, room)
}

func declare(s set, flags, room uint32) []byte {
	attrs := netlink.AppendString(nil, unix.NFTA_SET_NAME, s.name)
	concatenated := len(s.key) > 1
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
		if concatenated {
			flags |= setConcat
		}
	}
	if s.to != nil {
		flags |= unix.NFT_SET_MAP
	}
	attrs = netlink.Append(attrs, unix.NFTA_SET_FLAGS, net32(flags)...)
	attrs = typed(attrs, unix.NFTA_SET_KEY_TYPE, unix.NFTA_SET_KEY_LEN, s.key)
	if s.to != nil {
		attrs = typed(attrs, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_DATA_LEN, s.to)
	}
	attrs = netlink.Append(attrs, unix.NFTA_SET_ID, net32(1)...) // required, and for who refers to it by number
	attrs = netlink.AppendNested(attrs, unix.NFTA_SET_DESC, func(to []byte) []byte {
		if room > 0 {
			to = netlink.Append(to, unix.NFTA_SET_DESC_SIZE, net32(room)...)
		}
		if s.interval && concatenated {
			to = netlink.AppendNested(to, setDescConcat, func(to []byte) []byte {
				for _, part := range s.key {
					to = netlink.AppendNested(to, unix.NFTA_LIST_ELEM, func(to []byte) []byte {
						return netlink.Append(to, setFieldLen, net32(uint32(part.size))...)
					})
				}
				return to
			})
		}
		return to
	})
	if !concatenated && s.key[0].hostOrder {
		attrs = netlink.Append(attrs, unix.NFTA_SET_USERDATA, hostOrderNote...)
	}
	return about(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s.table, attrs)
}

// hostOrderNote tells nft that keys are in the order of this computer's bytes: NFTNL_UDATA_SET_KEYBYTEORDER, of 4 bytes,
// BYTEORDER_HOST_ENDIAN. Without it nft, from 0.9.8 to 1.1.3, lists an interface as "", and a uid with its bytes reversed; and
// what is listed so, no nft loads. In a concatenation it knows by the type of each part.
var hostOrderNote = append([]byte{0, 4}, host32(1)...)

// Numbers from the kernel's include/uapi/linux/netfilter/nf_tables.h that package unix lacks.
const (
	setConcat     = 0x80 // NFT_SET_CONCAT
	setDescConcat = 2    // NFTA_SET_DESC_CONCAT
	setFieldLen   = 1    // NFTA_SET_FIELD_LEN
)

// typed says what a key or a value is made of: to nft the types, 6 bits each; to the kernel the length.
func typed(to []byte, typeAttr, lenAttr uint16, parts []datatype) []byte {
	var types, size uint32
	for _, part := range parts {
		types = types<<6 | part.number
		if len(parts) == 1 {
			size = uint32(part.size)
		} else {
			size += uint32(part.size+3) &^ 3
		}
	}
	return netlink.Append(netlink.Append(to, typeAttr, net32(types)...), lenAttr, net32(size)...)
}

// fill puts networks into a set of one part: the first address of each range, and after the last an end.
func (s set) fill(nets []netip.Prefix) []byte {
	type edge struct {
		at  netip.Addr
		end bool
	}
	var edges []edge
	for _, net := range nets { // in order, and disjoint
		if n := len(edges); n > 0 && edges[n-1].end && edges[n-1].at == net.Addr() {
			edges = edges[:n-1] // this one follows at once
		} else {
			edges = append(edges, edge{at: net.Addr()})
		}
		if after := lastOf(net).Next(); after.IsValid() {
			edges = append(edges, edge{after, true})
		}
	}
	attrs := netlink.AppendNested(s.attributes(), unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) []byte {
		for _, e := range edges {
			list = netlink.AppendNested(list, unix.NFTA_LIST_ELEM, func(one []byte) []byte {
				if e.end {
					one = netlink.Append(one, unix.NFTA_SET_ELEM_FLAGS, net32(unix.NFT_SET_ELEM_INTERVAL_END)...)
				}
				return value(one, unix.NFTA_SET_ELEM_KEY, string(e.at.AsSlice()))
			})
		}
		return list
	})
	return ruleset.Message(unix.NFT_MSG_NEWSETELEM, s.family(), unix.NLM_F_CREATE|unix.NLM_F_EXCL, attrs)
}
