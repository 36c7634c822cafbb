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
	early     bool // the chain is asked before a packet's way is known
	admits    bool // it is the admission, which concerns each AppVM that has a proxy
}

// A set is what is known of a set of the table.
type set struct {
	intervals bool
	keyBytes  uint64
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

// forget notes that an unknown expression may have written to any register, computed from any.
func (d *decoder) forget() {
	f := other
	for _, c := range d.registers {
		f = computed(f, c.register)
	}
	for i := range d.registers {
		d.registers[i] = content{register: f}
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

// long returns an attribute that is a number of 64 bits; 0 if it is not there.
func (e expression) long(n uint16) uint64 {
	if b := e.attr(n); len(b) == 8 {
		return binary.BigEndian.Uint64(b)
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
		d.xtMatch(e.text(unix.NFTA_MATCH_NAME), e.number(unix.NFTA_MATCH_REV), info)
	case "limit":
		rate, second := e.long(unix.NFTA_LIMIT_RATE), max(1, e.long(unix.NFTA_LIMIT_UNIT))
		few := rate < second                     // packets
		if e.number(unix.NFTA_LIMIT_TYPE) == 1 { // NFT_LIMIT_PKT_BYTES
			few = rate/second < 10_000
		}
		d.limit(e.number(unix.NFTA_LIMIT_FLAGS), few)
	case "connlimit":
		d.limit(e.number(nftaConnlimitFlags), e.number(nftaConnlimitCount) == 0)
	case "queue", "synproxy":
		d.add(unsure, "")
	case "rt":
		d.route(e)
	case "xfrm":
		d.xfrm(e)
	case "dynset": // the rule ends there if the set is full
		d.marks()
		d.matches = append(d.matches, constant(maybe))
	case "objref":
		d.object(e.number(unix.NFTA_OBJREF_IMM_TYPE))
	case "flow_offload": // a rule ends there for packets that cannot be offloaded
		d.matches = append(d.matches, constant(maybe))
	case "masq", "nat", "redir":
		d.add(accepted, "")
	case "counter", "log", "last", "notrack", "dup":
	case "byteorder", "hash", "numgen", "exthdr", "socket", "osf", "tunnel": // they fill a register
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

func (d *decoder) bitwise(e expression) {
	c := d.at(e.number(unix.NFTA_BITWISE_SREG))
	mask, xor := e.attr(unix.NFTA_BITWISE_MASK, unix.NFTA_DATA_VALUE), e.attr(unix.NFTA_BITWISE_XOR, unix.NFTA_DATA_VALUE)
	if second := e.number(nftaBitwiseSreg2); second != 0 {
		c = content{register: computed(c.register, d.at(second).register)}
	} else if c.mask != nil || mask == nil || !zero(xor) {
		c = content{register: computed(c.register, other)}
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

// object reads what a rule says by the name of an object. Of kind 0, a map says which one.
func (d *decoder) object(kind uint32) {
	switch kind {
	case unix.NFT_OBJECT_COUNTER, unix.NFT_OBJECT_CT_HELPER, unix.NFT_OBJECT_CT_TIMEOUT, unix.NFT_OBJECT_CT_EXPECT,
		unix.NFT_OBJECT_SECMARK, unix.NFT_OBJECT_TUNNEL:
	case unix.NFT_OBJECT_SYNPROXY:
		d.add(unsure, "")
	default:
		d.matches = append(d.matches, constant(maybe))
	}
}

// limit reads a limit with these flags. Usual traffic is below it, unless it allows next to nothing.
func (d *decoder) limit(flags uint32, few bool) {
	a := maybe
	if flags&1 != 0 && !few { // NFT_LIMIT_F_INV, NFT_CONNLIMIT_F_INV
		a = never
	}
	d.matches = append(d.matches, constant(a))
}

const (
	nftaConnlimitCount = 1 // NFTA_CONNLIMIT_COUNT
	nftaConnlimitFlags = 2 // NFTA_CONNLIMIT_FLAGS
	nftaBitwiseSreg2   = 8 // NFTA_BITWISE_SREG2
)

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
