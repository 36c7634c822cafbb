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
	return match{byOut: c.byOut(), byMark: c.register == mark, unmarked: maybe, of: of}
}

// A decoder makes rules of the expressions of one rule of the kernel.
type decoder struct {
	netlink.Decoder
	conn      *ruleset.Conn
	chain     *chain
	family    byte
	table     string
	place     string
	sets      map[string]set // of the table
	registers [20]content    // in units of 4 bytes
	matches   []match
	admits    bool // it is the admission, which concerns each AppVM that has a proxy
}

// A set is what is known of a set of the table.
type set struct {
	intervals bool
	passing   bool // its elements come and go without a change of the ruleset: packets add them, or their time runs out
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

// An expression is one of a rule: its attributes (nf_tables.h: enum nft_*_attributes).
type expression struct {
	d    *netlink.Decoder
	data []byte
}

func (e expression) attr(path ...uint16) []byte { return e.d.Find(e.data, path...) }

// number returns an attribute that is a number; 0 if it is not there.
func (e expression) number(n uint16) uint32 {
	if b := e.attr(n); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text returns an attribute that is a text, which the kernel ends with a NUL.
func (e expression) text(n uint16) string { return string(bytes.TrimRight(e.attr(n), "\x00")) }

// rule reads a rule's expressions in their order. An expression that it does not know may match or not.
func (d *decoder) rule(list []byte) error {
	for _, element := range d.All(list) {
		name := string(bytes.TrimSuffix(d.Find(element, unix.NFTA_EXPR_NAME), []byte{0}))
		if err := d.read(name, expression{&d.Decoder, d.Find(element, unix.NFTA_EXPR_DATA)}); err != nil {
			return err
		}
	}
	return d.Err()
}

func (d *decoder) read(name string, e expression) error {
	switch name {
	case "meta":
		d.meta(e)
	case "ct":
		d.tracking(e)
	case "payload":
		d.payload(e)
	case "fib":
		d.fib(e)
	case "bitwise":
		d.bitwise(e)
	case "cmp":
		c := d.at(e.number(unix.NFTA_CMP_SREG))
		d.matches = append(d.matches, d.compare(c, e.number(unix.NFTA_CMP_OP), e.attr(unix.NFTA_CMP_DATA, unix.NFTA_DATA_VALUE)))
	case "range":
		d.isInRange(e)
	case "lookup":
		return d.lookup(e)
	case "immediate":
		if v := e.attr(unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT); v != nil {
			d.add(d.endingOf(v))
		} else {
			d.put(e.number(unix.NFTA_IMMEDIATE_DREG), other, 4)
		}
	case "reject":
		d.add(dropped, "")
	case "target": // of xtables
		d.target(e)
	case "match":
		info := e.attr(unix.NFTA_MATCH_INFO)
		d.admits = d.admits || unix.ByteSliceToString(info) == firewall.AdmissionComment
		d.matches = append(d.matches, xtMatch(e.text(unix.NFTA_MATCH_NAME), info))
	case "limit":
		d.limit(e.number(unix.NFTA_LIMIT_FLAGS))
	case "connlimit":
		d.limit(e.number(nftaConnlimitFlags))
	case "objref":
		d.object(e.number(unix.NFTA_OBJREF_IMM_TYPE))
	case "flow_offload": // a rule ends there for packets that cannot be offloaded
		d.matches = append(d.matches, constant(maybe))
	case "counter", "log", "last", "notrack", "masq", "nat", "redir":
	case "byteorder", "hash", "numgen", "rt", "exthdr", "socket", "osf", "tunnel", "xfrm": // they fill a register
		d.forget()
	default:
		d.forget()
		d.matches = append(d.matches, constant(maybe))
	}
	return nil
}

// at returns what a register holds, and put has it hold a field of that many bytes.
func (d *decoder) at(register uint32) content { return d.registers[unit(register)] }
func (d *decoder) put(register uint32, f register, size int) {
	at := unit(register)
	clear(d.registers[at:min(at+(size+3)/4, len(d.registers))])
	d.registers[at] = content{register: f}
}

func (d *decoder) meta(e expression) {
	switch key := e.number(unix.NFTA_META_KEY); {
	case e.attr(unix.NFTA_META_DREG) != nil:
		f := metaField(key)
		d.put(e.number(unix.NFTA_META_DREG), f, 4*d.units(f))
	case key == unix.NFT_META_MARK:
		d.marks()
	}
}

func (d *decoder) tracking(e expression) {
	key := e.number(unix.NFTA_CT_KEY)
	if e.attr(unix.NFTA_CT_DREG) == nil {
		if key == unix.NFT_CT_MARK {
			d.marks()
		}
		return
	}
	f := other
	switch key {
	case unix.NFT_CT_STATE:
		f = ctState
	case unix.NFT_CT_MARK:
		f = mark
	}
	d.put(e.number(unix.NFTA_CT_DREG), f, 16) // an address at most
}

func (d *decoder) payload(e expression) {
	if e.attr(unix.NFTA_PAYLOAD_DREG) != nil { // otherwise the rule changes the packet
		size := e.number(unix.NFTA_PAYLOAD_LEN)
		d.put(e.number(unix.NFTA_PAYLOAD_DREG),
			payloadField(e.number(unix.NFTA_PAYLOAD_BASE), e.number(unix.NFTA_PAYLOAD_OFFSET), size), int(size))
	}
}

func (d *decoder) fib(e expression) {
	f := other
	const toDestination = unix.NFTA_FIB_F_DADDR
	if flags := e.number(unix.NFTA_FIB_FLAGS); flags&^unix.NFTA_FIB_F_MARK == toDestination {
		f = map[uint32]register{unix.NFT_FIB_RESULT_ADDRTYPE: destinationType,
			unix.NFT_FIB_RESULT_OIF: outIndex, unix.NFT_FIB_RESULT_OIFNAME: outName}[e.number(unix.NFTA_FIB_RESULT)]
	}
	d.put(e.number(unix.NFTA_FIB_DREG), f, 4*d.units(f))
}

func (d *decoder) bitwise(e expression) {
	c := d.at(e.number(unix.NFTA_BITWISE_SREG))
	mask, xor := e.attr(unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE), e.attr(unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)
	if c.mask != nil || mask == nil || !zero(xor) {
		c = content{register: outOr(c.register)}
	} else {
		c.mask = mask
	}
	d.registers[unit(e.number(unix.NFTA_BITWISE_DREG))] = c
}

func (d *decoder) isInRange(e expression) {
	m := d.between(d.at(e.number(unix.NFTA_RANGE_SREG)), e.attr(unix.NFTA_RANGE_FROM_DATA, unix.NFTA_DATA_VALUE),
		e.attr(unix.NFTA_RANGE_TO_DATA, unix.NFTA_DATA_VALUE))
	if e.number(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ {
		m = m.inverted()
	}
	d.matches = append(d.matches, m)
}

func (d *decoder) target(e expression) {
	switch e.text(unix.NFTA_TARGET_NAME) {
	case "REJECT", "DROP", "TARPIT":
		d.add(dropped, "")
	case "MARK", "CONNMARK":
		d.marks()
	}
}

// object reads what a rule says by the name of an object. Of kind 0, a map says which one.
func (d *decoder) object(kind uint32) {
	switch kind {
	case 0, unix.NFT_OBJECT_QUOTA, unix.NFT_OBJECT_LIMIT:
		d.matches = append(d.matches, constant(maybe))
	}
}

// limit reads a limit with these flags. Usual traffic is below it.
func (d *decoder) limit(flags uint32) {
	a := maybe
	if flags&1 != 0 { // NFT_LIMIT_F_INV, NFT_CONNLIMIT_F_INV
		a = never
	}
	d.matches = append(d.matches, constant(a))
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
