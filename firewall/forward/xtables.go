package forward

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// xtMatch reads a match of iptables, as its own structures have it.
func (d *decoder) xtMatch(name string, revision uint32, info []byte) {
	if name == "connlabel" || name == "recent" { // they may note it as well
		d.marks()
	}
	d.matches = append(d.matches, xtMatch(name, revision, info))
}

func xtMatch(name string, revision uint32, info []byte) match {
	number := binary.NativeEndian.Uint32
	short := func(at int) uint32 { return uint32(binary.NativeEndian.Uint16(info[at:])) }
	switch {
	case name == "comment":
		return constant(always)
	case (name == "mark" || name == "connmark") && len(info) >= 9: // struct xt_mark_mtinfo1
		invert, value, mask := info[8] != 0, number(info), number(info[4:])
		return marked(whether((value&mask == 0) != invert))
	case name == "devgroup" && len(info) >= 20 && number(info)&4 != 0: // XT_DEVGROUP_MATCH_DST
		invert, group, mask := number(info)&8 != 0, number(info[12:]), number(info[16:])
		best := always
		if number(info)&1 != 0 { // XT_DEVGROUP_MATCH_SRC
			best = maybe
		}
		return match{byOut: true, of: func(q asked) answer {
			return min(best, whether(((q.out.group^group)&mask == 0) != invert))
		}}
	case name == "conntrack" && len(info) >= 152 && short(146) == 1: // xt_conntrack_mtinfo3, XT_CONNTRACK_STATE alone
		m := match{of: xtState(short(150))}
		if short(148) != 0 {
			m = m.inverted()
		}
		return m
	case name == "multiport" && revision == 1 && len(info) >= 48 && info[0] == 1: // struct xt_multiport_v1, XT_MULTIPORT_DESTINATION
		m := constant(multiport(info))
		if info[47] != 0 {
			m = m.inverted()
		}
		return m
	case name == "policy" && len(info) >= 306: // struct xt_policy_info
		return policy(short(304)&2 != 0, short(304)&4 != 0) // XT_POLICY_MATCH_OUT, XT_POLICY_MATCH_NONE
	case name == "physdev" && len(info) >= 66: // struct xt_physdev_info
		return match{byOut: info[65]&(2|16) != 0, of: constant(maybe).of} // XT_PHYSDEV_OP_OUT, XT_PHYSDEV_OP_ISOUT
	case name == "set" && revision > 0 && len(info) >= 4: // struct xt_set_info
		return inIPSet(info[2], info[3]&4 == 0) // IPSET_DIM_TWO_SRC
	case slices.Contains(marksLeft, name):
		return marked(maybe)
	case slices.Contains(outUnknown, name):
		return match{byOut: true, byMark: true, unmarked: maybe, of: constant(maybe).of}
	}
	return constant(maybe)
}

// multiport reads ports: a number of them, of which some begin a range that the next one ends.
func multiport(info []byte) (a answer) {
	port := func(i int) uint16 { return binary.NativeEndian.Uint16(info[2+2*i:]) }
	for i := 0; i < min(int(info[1]), 15); i++ {
		first := port(i)
		if info[32+i] != 0 && i < 14 {
			i++
		}
		a = max(a, ports(first, port(i)))
	}
	return a
}

// marksLeft are matches about what another rule may have left, by one of iptables' targets or matches.
var marksLeft = []string{"mark", "connmark", "connlabel", "recent"}

// outUnknown are matches that may be about the interface by which a packet leaves, or its route, in a way that is not understood here.
var outUnknown = []string{"devgroup", "physdev", "policy", "set", "realm", "iface", "bpf"}

// xtState is the same as state, but for two bits that iptables has for connections that are translated, as questions for names are.
func xtState(bits uint32) func(asked) answer {
	const snat, dnat = 1 << 6, 1 << 7
	of := state(bits)
	return func(q asked) answer {
		if bits&(snat|dnat) != 0 {
			return max(of(q), maybe)
		}
		return of(q)
	}
}

// policy is about IPsec: by which a packet leaves or has come, or that there is none.
func policy(out, none bool) match {
	if !out {
		return constant(maybe)
	}
	return match{byOut: true, of: constant(whether(none)).of}
}

// inIPSet is about a set of the program ipset, whose elements change without a change of the rules. If they have an interface, it is the
// second of two parts.
func inIPSet(parts byte, secondIsOut bool) match {
	return match{byOut: parts == 2 && secondIsOut, byMark: true, unmarked: maybe, passing: true, of: constant(maybe).of}
}

func (d *decoder) target(e expression) {
	end, marks := targetOf(e.text(unix.NFTA_TARGET_NAME))
	if marks {
		d.marks()
	}
	if end != goOn {
		d.add(end, "")
	}
}

// targetOf returns what becomes of a packet that comes to a target of iptables, and whether that sets a mark.
func targetOf(name string) (end ending, marks bool) {
	switch name {
	case "DROP", "REJECT", "TARPIT":
		return dropped, false
	case "ACCEPT", "MASQUERADE", "SNAT", "DNAT", "NETMAP", "REDIRECT":
		return accepted, false
	case "RETURN":
		return returns, false
	case "MARK", "CONNMARK", "HMARK", "SET":
		return goOn, true
	case "LOG", "NFLOG", "ULOG", "TRACE", "AUDIT", "TCPMSS", "TCPOPTSTRIP", "TOS", "DSCP", "ECN", "TTL", "HL", "CHECKSUM", "CLASSIFY",
		"SECMARK", "CONNSECMARK", "CT", "NOTRACK", "TEE", "IDLETIMER", "LED", "RATEEST", "ACCOUNT":
		return goOn, false
	}
	return unsure, false // such as NFQUEUE
}
