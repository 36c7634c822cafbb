package forward

import "encoding/binary"

// xtMatch reads a match of iptables, as its own structures have it.
func xtMatch(name string, info []byte) match {
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
		return match{byOut: true, of: func(q asked) answer {
			return whether(((q.out.group^group)&mask == 0) != invert)
		}}
	case name == "conntrack" && len(info) >= 152 && short(146) == 1: // xt_conntrack_mtinfo3, XT_CONNTRACK_STATE alone
		m := match{of: state(short(150))}
		if short(148) != 0 {
			m = m.inverted()
		}
		return m
	}
	return constant(maybe)
}
