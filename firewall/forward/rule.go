package forward

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// A register holds a field.
type register int

const (
	other register = iota
	outName
	outIndex
	outGroup
	outKind
	outOther // something else about that interface
	inName
	inIndexOf
	inGroupOf
	ctState
	ipVersion
	etherType
	l4Protocol
	source
	destination
	destinationPort
	destinationType
	mark // of the packet, or its connection
	socketUID
)

func (f register) byOut() bool { return outName <= f && f <= outOther }

// A content is what a register holds: a field, and the bits of it that are left.
type content struct {
	register
	mask []byte // nil: all
}

// match returns a match that is about the field.
func (c content) match(of func(asked) answer) match {
	return match{byOut: c.byOut(), byMark: c.register == mark, of: of}
}

// A decoder makes rules of the expressions of one rule of the kernel.
type decoder struct {
	netlink.Decoder
	conn      *ruleset.Conn
	chain     *chain
	family    byte
	table     string
	place     string
	intervals map[string]bool // which sets are of intervals
	registers [20]content     // in units of 4 bytes
	matches   []match
	admits    bool // it is the admission, which concerns each AppVM that has a proxy
}

// unit returns the place of a register: NFT_REG_1 to NFT_REG_4 have 16 bytes, those from NFT_REG32_00 (8) on have 4.
func unit(register uint32) int {
	switch {
	case register >= 8 && register < 28:
		return int(register) - 8
	case register >= 1 && register <= 4:
		return int(register-1) * 4
	}
	return 0
}

func (d *decoder) add(v ending, to string, more ...match) {
	matches := slices.Concat(d.matches, more)
	if d.admits {
		matches = nil
	}
	d.chain.rules = append(d.chain.rules, rule{place: d.place, matches: matches, ending: v, to: to})
}

// marks notes that the rule sets a mark.
func (d *decoder) marks() {
	d.chain.rules = append(d.chain.rules, rule{place: d.place, matches: slices.Clone(d.matches), marks: true})
}

// forget notes that an unknown expression may have written to any register.
func (d *decoder) forget() {
	for i, c := range d.registers {
		d.registers[i] = content{register: outOr(c.register)}
	}
}

// rule reads a rule's expressions in their order (nf_tables.h: enum nft_*_attributes). An expression that it does not know may match
// or not.
func (d *decoder) rule(list []byte) error {
	for _, element := range d.All(list) {
		name := string(bytes.TrimSuffix(d.Find(element, unix.NFTA_EXPR_NAME), []byte{0}))
		data := d.Find(element, unix.NFTA_EXPR_DATA)
		attr := func(n uint16) []byte { return d.Find(data, n) }
		number := func(n uint16) uint32 {
			if b := attr(n); len(b) == 4 {
				return binary.BigEndian.Uint32(b)
			}
			return 0
		}
		put := func(register uint32, f register) { d.registers[unit(register)] = content{register: f} }
		switch name {
		case "meta":
			if attr(unix.NFTA_META_DREG) != nil {
				put(number(unix.NFTA_META_DREG), metaField(number(unix.NFTA_META_KEY)))
			} else if number(unix.NFTA_META_KEY) == unix.NFT_META_MARK {
				d.marks()
			}
		case "ct":
			if attr(unix.NFTA_CT_DREG) != nil {
				f := other
				switch number(unix.NFTA_CT_KEY) {
				case unix.NFT_CT_STATE:
					f = ctState
				case unix.NFT_CT_MARK:
					f = mark
				}
				put(number(unix.NFTA_CT_DREG), f)
			} else if number(unix.NFTA_CT_KEY) == unix.NFT_CT_MARK {
				d.marks()
			}
		case "payload":
			if attr(unix.NFTA_PAYLOAD_DREG) != nil {
				put(number(unix.NFTA_PAYLOAD_DREG), payloadField(number(unix.NFTA_PAYLOAD_BASE),
					number(unix.NFTA_PAYLOAD_OFFSET), number(unix.NFTA_PAYLOAD_LEN)))
			}
		case "fib":
			f := other
			const toDestination = unix.NFTA_FIB_F_DADDR
			if flags := number(unix.NFTA_FIB_FLAGS); flags&^unix.NFTA_FIB_F_MARK == toDestination {
				f = map[uint32]register{unix.NFT_FIB_RESULT_ADDRTYPE: destinationType,
					unix.NFT_FIB_RESULT_OIF: outIndex, unix.NFT_FIB_RESULT_OIFNAME: outName}[number(unix.NFTA_FIB_RESULT)]
			}
			put(number(unix.NFTA_FIB_DREG), f)
		case "bitwise":
			c := d.registers[unit(number(unix.NFTA_BITWISE_SREG))]
			mask, xor := d.Find(data, unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE), d.Find(data, unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)
			if c.mask != nil || mask == nil || !zero(xor) {
				c = content{register: outOr(c.register)}
			} else {
				c.mask = mask
			}
			d.registers[unit(number(unix.NFTA_BITWISE_DREG))] = c
		case "cmp":
			c := d.registers[unit(number(unix.NFTA_CMP_SREG))]
			d.matches = append(d.matches, d.compare(c, number(unix.NFTA_CMP_OP), d.Find(data, unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)))
		case "range":
			c := d.registers[unit(number(unix.NFTA_RANGE_SREG))]
			m := d.between(c, d.Find(data, unix.NFTA_RANGE_FROM_DATA, unix.NFTA_DATA_VALUE), d.Find(data, unix.NFTA_RANGE_TO_DATA, unix.NFTA_DATA_VALUE))
			if number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
				m = m.inverted()
			}
			d.matches = append(d.matches, m)
		case "lookup":
			if err := d.lookup(data, attr(unix.NFTA_LOOKUP_DREG) != nil && number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT,
				number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0); err != nil {
				return err
			}
			if attr(unix.NFTA_LOOKUP_DREG) != nil {
				put(number(unix.NFTA_LOOKUP_DREG), outOr(d.registers[unit(number(unix.NFTA_LOOKUP_SREG))].register))
			}
		case "immediate":
			if v := d.Find(data, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT); v != nil {
				d.add(d.endingOf(v))
			} else {
				put(number(unix.NFTA_IMMEDIATE_DREG), other)
			}
		case "reject":
			d.add(dropped, "")
		case "target": // of xtables
			switch string(bytes.TrimRight(attr(unix.NFTA_TARGET_NAME), "\x00")) {
			case "REJECT", "DROP", "TARPIT":
				d.add(dropped, "")
			case "MARK", "CONNMARK":
				d.marks()
			}
		case "match":
			info := attr(unix.NFTA_MATCH_INFO)
			d.admits = d.admits || unix.ByteSliceToString(info) == firewall.AdmissionComment
			d.matches = append(d.matches, xtMatch(string(bytes.TrimRight(attr(unix.NFTA_MATCH_NAME), "\x00")), info))
		case "limit", "connlimit": // usual traffic is below the limit
			flags := map[string]uint16{"limit": unix.NFTA_LIMIT_FLAGS, "connlimit": nftaConnlimitFlags}[name]
			a := maybe
			if number(flags)&1 != 0 { // NFT_LIMIT_F_INV, NFT_CONNLIMIT_F_INV
				a = never
			}
			d.matches = append(d.matches, constant(a))
		case "counter", "log", "last", "notrack", "objref", "flow_offload", "masq", "nat", "redir":
		case "byteorder", "hash", "numgen", "rt", "exthdr", "socket", "osf", "tunnel", "xfrm": // they fill a register
			d.forget()
		default:
			d.forget()
			d.matches = append(d.matches, constant(maybe))
		}
	}
	return d.Err()
}

const nftaConnlimitFlags = 2 // NFTA_CONNLIMIT_FLAGS

func metaField(key uint32) register {
	switch key {
	case unix.NFT_META_OIFNAME:
		return outName
	case unix.NFT_META_OIF:
		return outIndex
	case unix.NFT_META_OIFGROUP:
		return outGroup
	case nftMetaOIFKind:
		return outKind
	case unix.NFT_META_OIFTYPE:
		return outOther
	case unix.NFT_META_IIFNAME:
		return inName
	case unix.NFT_META_IIF:
		return inIndexOf
	case unix.NFT_META_IIFGROUP:
		return inGroupOf
	case unix.NFT_META_NFPROTO:
		return ipVersion
	case unix.NFT_META_PROTOCOL:
		return etherType
	case unix.NFT_META_L4PROTO:
		return l4Protocol
	case unix.NFT_META_MARK:
		return mark
	case unix.NFT_META_SKUID:
		return socketUID
	}
	return other
}

const nftMetaOIFKind = 27 // NFT_META_OIFKIND

// payloadField reads places in the headers of IPv4 and IPv6; nft asks for the version before.
func payloadField(base, offset, length uint32) register {
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		switch [2]uint32{offset, length} {
		case [2]uint32{9, 1}, [2]uint32{6, 1}:
			return l4Protocol
		case [2]uint32{12, 4}, [2]uint32{8, 16}:
			return source
		case [2]uint32{16, 4}, [2]uint32{24, 16}:
			return destination
		}
		if offset == 16 && length < 4 || offset == 24 && length < 16 { // a network of whole bytes
			return destination
		}
		if offset == 12 && length < 4 || offset == 8 && length < 16 {
			return source
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if offset == 2 && length == 2 {
			return destinationPort
		}
	}
	return other
}

// xtMatch reads a match of iptables, as its own structures have it.
func xtMatch(name string, info []byte) match {
	number := binary.NativeEndian.Uint32
	short := func(at int) uint32 { return uint32(binary.NativeEndian.Uint16(info[at:])) }
	switch {
	case name == "comment":
		return constant(always)
	case name == "mark", name == "connmark":
		return match{byMark: true, of: func(asked) answer { return maybe }}
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

// outOr returns the register of a value that was computed from a field.
func outOr(f register) register {
	switch {
	case f.byOut():
		return outOther
	case f == mark:
		return mark
	}
	return other
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func (d *decoder) endingOf(v []byte) (ending, string) {
	to := string(bytes.TrimSuffix(d.Find(v, unix.NFTA_VERDICT_CHAIN), []byte{0}))
	code := d.Find(v, unix.NFTA_VERDICT_CODE)
	if len(code) != 4 {
		return unsure, ""
	}
	switch int32(binary.BigEndian.Uint32(code)) {
	case unix.NFT_JUMP:
		return jumps, to
	case unix.NFT_GOTO:
		return leaps, to
	case unix.NFT_RETURN:
		return returns, ""
	case unix.NFT_CONTINUE:
		return goOn, ""
	case 0: // NF_DROP
		return dropped, ""
	case 1: // NF_ACCEPT
		return accepted, ""
	}
	return unsure, "" // NF_QUEUE
}
