package nft

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/netlink"
)

// replaceAll returns the transaction that replaces everything of ours by the skeleton with what want says. It is valid only as
// long as before holds, because it contains the handles of the jumps. Pinned addresses stay pinned, for the time that is left now.
func (n *Backend) replaceAll(before snapshot, want firewall.State, with extras, now time.Duration) (messages [][]byte) {
	var b *bounds
	if with.bounds {
		b = boundsOf(tracking.Places())
	}
	put := func(message ...[]byte) { messages = append(messages, message...) }
	put(removeTables(before)...)
	for _, table := range []string{"vifproxy", "inet vifproxy"} {
		put(about(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, table, nil))
	}
	for _, s := range ourSets {
		if s.table != "qubes" && s.isFor(n.cfg) {
			put(s.declare())
		}
	}
	put(dynamic(refusedSet, 0, 65535))
	put(pinned.four.declare(), pinned.six.declare())
	for _, set := range constants {
		put(set.declare(unix.NFT_SET_CONSTANT), set.fill(set.nets))
	}
	if b != nil {
		put(declareBounds(n.cfg)...)
	}
	chains := chains(n.cfg, b)
	if with.zones {
		chains = zones(chains, n.cfg)
	}
	for _, chain := range chains {
		put(chain.declare())
	}
	for _, chain := range chains {
		for _, r := range chain.rules {
			put(chain.append(r))
		}
	}
	if with.qubes {
		put(removeRules(before)...)
		put(removeEmpty(before)...)
		put(acceptSet.declare())
		accepts := chain{"qubes", "vifproxy-input", hook{}, nil}
		put(accepts.declare(), accepts.append(All(TCP, in(acceptSet, iifname, ipSaddr, dport), Accept)))
		user := chain{"qubes", "custom-input", hook{}, nil}
		put(user.insert(jump("vifproxy-input"), "vifproxy"))
	}
	for _, s := range ourSets {
		if (s != acceptSet || with.qubes) && s.isFor(n.cfg) {
			put(s.request(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s.elementsOf(want))...)
		}
	}
	put(pinRequests(n.pins.All(now), unix.NLM_F_EXCL)...)
	return messages
}

// removeTables deletes those of our own tables that are there.
func removeTables(before snapshot) (messages [][]byte) {
	for _, table := range []string{ownTable, fenceTable} {
		if before.hasTable(table) {
			messages = append(messages, about(unix.NFT_MSG_DELTABLE, 0, table, nil))
		}
	}
	return messages
}

// removeRules deletes what an earlier skeleton has put into Qubes' table, but not the chain and the set, which may still be in
// use; removeEmpty deletes these.
func removeRules(before snapshot) (messages [][]byte) {
	for _, handle := range before.rules(qubesTable, userChain) {
		messages = append(messages, about(unix.NFT_MSG_DELRULE, 0, "qubes", netlink.Append(
			netlink.AppendString(nil, unix.NFTA_RULE_CHAIN, "custom-input"), unix.NFTA_RULE_HANDLE, net64(handle)...)))
	}
	if before.hasChain(qubesTable, acceptChain) {
		messages = append(messages, about(unix.NFT_MSG_DELRULE, 0, "qubes", netlink.AppendString(nil, unix.NFTA_RULE_CHAIN, "vifproxy-input")))
	}
	return messages
}

func removeEmpty(before snapshot) (messages [][]byte) {
	if before.hasChain(qubesTable, acceptChain) {
		messages = append(messages, about(unix.NFT_MSG_DELCHAIN, 0, "qubes", netlink.AppendString(nil, unix.NFTA_CHAIN_NAME, "vifproxy-input")))
	}
	if before.hasSet(acceptSet) {
		messages = append(messages, about(unix.NFT_MSG_DELSET, 0, "qubes", netlink.AppendString(nil, unix.NFTA_SET_NAME, "vifproxy")))
	}
	return messages
}

// about is a request about a table, or something in it.
func about(request, flags uint16, table string, attrs []byte) []byte {
	return ruleset.Message(request, family(table), flags, append(netlink.AppendString(nil, unix.NFTA_TABLE_NAME, bare(table)), attrs...))
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

// declare makes the set, without elements.
func (s *set) declare(flags ...uint32) []byte {
	return declare(s, append(flags, 0)[0], 0)
}

// dynamic declares a set that rules fill, with room for so many elements.
func dynamic(s *set, flags uint32, room uint32) []byte {
	return declare(s, unix.NFT_SET_EVAL|flags, room)
}

func declare(s *set, flags, room uint32) []byte {
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
	if s.fleeting {
		flags |= unix.NFT_SET_TIMEOUT
		attrs = netlink.Append(attrs, unix.NFTA_SET_GC_INTERVAL, net32(uint32(pinsEviction.Milliseconds()))...)
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
	if s.typeOf != nil {
		attrs = netlink.Append(attrs, unix.NFTA_SET_USERDATA, s.typeOf...)
	} else if !concatenated && s.key[0].hostOrder {
		attrs = netlink.Append(attrs, unix.NFTA_SET_USERDATA, hostOrderNote...)
	}
	return about(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, s.table, attrs)
}

// hostOrderNote tells nft that keys are in the order of this computer's bytes: NFTNL_UDATA_SET_KEYBYTEORDER, of 4 bytes,
// BYTEORDER_HOST_ENDIAN. Without it nft, from 0.9.8 to 1.1.3, lists an interface as "", and a uid with its bytes reversed; and
// what is listed so, no nft loads. In a concatenation it knows by the type of each part.
var hostOrderNote = append([]byte{0, 4}, host32(1)...)

// These notes make nft list maps to zones, whose type has no name, as "typeof meta skuid : ct zone" and "typeof ip saddr : ct zone", which
// it loads again. They are what nft 1.0.6 writes: NFTNL_UDATA_SET_*BYTEORDER of key and data, and *_TYPEOF of both, each with the number
// of a kind of expression (enum expr_types in its include/expression.h) and what it needs beside.
var (
	zonesNote = slices.Concat(note(0, host32(1)), note(1, host32(1)),
		note(3, note(0, host32(9)), note(1, note(0, host32(unix.NFT_META_SKUID)))), ctZoneNote)
	answerZonesNote = slices.Concat(note(0, host32(2)), note(1, host32(1)),
		note(3, note(0, host32(7)), note(1, note(0, host32(12)), note(1, host32(11)))), ctZoneNote)
	ctZoneNote = note(4, note(0, host32(12)), note(1, note(0, host32(unix.NFT_CT_ZONE)), note(1, host32(1<<32-1))))
)

// note returns a number, the length of what follows, and that.
func note(number byte, parts ...[]byte) []byte {
	text := slices.Concat(parts...)
	return append([]byte{number, byte(len(text))}, text...)
}

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
func (s *set) fill(nets []netip.Prefix) []byte {
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
	return ruleset.Message(unix.NFT_MSG_NEWSETELEM, family(s.table), unix.NLM_F_CREATE|unix.NLM_F_EXCL, attrs)
}
