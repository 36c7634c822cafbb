package firewall

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The words that rules are made of. Each is named as nft writes it, and is the expressions that nft 1.0.6 makes of the
// same text, so that every nft can list the rules.

// rule is a list of expressions as the kernel reads them. It evaluates one after the other until one does not match.
type rule []byte

// all is the rule that has all these parts.
func all(parts ...rule) rule { return slices.Concat(parts...) }

// attr is an attribute of an expression.
type attr struct {
	number uint16
	data   []byte
}

func number(n uint16, value uint32) attr { return attr{n, net32(value)} }

func text(n uint16, value string) attr { return attr{n, append([]byte(value), 0)} }

func group(n uint16, attrs ...attr) attr {
	var data []byte
	for _, a := range attrs {
		data = attribute(data, a.number, a.data...)
	}
	return attr{unix.NLA_F_NESTED | n, data}
}

func data(n uint16, value []byte) attr { return group(n, attr{unix.NFTA_DATA_VALUE, value}) }

// expression is one expression of a kind, such as "cmp".
func expression(kind string, attrs ...attr) rule {
	e := group(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, kind), group(unix.NFTA_EXPR_DATA, attrs...))
	return attribute(nil, e.number, e.data...)
}

// A field is something that rules compare: a part of a packet, or what the kernel knows of it.
type field struct {
	size int // in bytes
	load func(register uint32) rule
}

// register1 is the first of the kernel's registers, of 4 bytes each; a longer value continues in the next ones.
const register1 = unix.NFT_REG32_00

func meta(key uint32, size int) field {
	return field{size, func(register uint32) rule {
		return expression("meta", number(unix.NFTA_META_KEY, key), number(unix.NFTA_META_DREG, register))
	}}
}

func payload(base, offset uint32, size int) field {
	return field{size, func(register uint32) rule {
		return expression("payload", number(unix.NFTA_PAYLOAD_DREG, register), number(unix.NFTA_PAYLOAD_BASE, base),
			number(unix.NFTA_PAYLOAD_OFFSET, offset), number(unix.NFTA_PAYLOAD_LEN, uint32(size)))
	}}
}

// original is of the packet that began the connection.
func original(key uint32, size int) field {
	return field{size, func(register uint32) rule {
		return expression("ct", number(unix.NFTA_CT_KEY, key), number(unix.NFTA_CT_DREG, register),
			attr{unix.NFTA_CT_DIRECTION, []byte{0}})
	}}
}

var (
	iifname = meta(unix.NFT_META_IIFNAME, unix.IFNAMSIZ)
	oifname = meta(unix.NFT_META_OIFNAME, unix.IFNAMSIZ)
	nfproto = meta(unix.NFT_META_NFPROTO, 1)
	l4proto = meta(unix.NFT_META_L4PROTO, 1)
	skuid   = meta(unix.NFT_META_SKUID, 4)

	ipSaddr  = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4)
	ipDaddr  = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4)
	ip6Daddr = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
	sport    = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2)
	dport    = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
	tcpFlags = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1)

	originalDaddr    = original(unix.NFT_CT_DST_IP, 4)
	originalIP6Daddr = original(unix.NFT_CT_DST_IP6, 16)
	originalDport    = original(unix.NFT_CT_PROTO_DST, 2)

	ctDirection = field{1, func(register uint32) rule {
		return expression("ct", number(unix.NFTA_CT_KEY, unix.NFT_CT_DIRECTION), number(unix.NFTA_CT_DREG, register))
	}}

	daddrType = field{4, func(register uint32) rule { // what the routing tables call the address: fib daddr type
		return expression("fib", number(unix.NFTA_FIB_DREG, register), number(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE),
			number(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR))
	}}

	// The uid in network order, in which the kernel compares intervals. For sets of intervals nft turns it since 1.0.6.
	skuidTurned = field{4, func(register uint32) rule {
		return all(skuid.load(register), expression("byteorder", number(unix.NFTA_BYTEORDER_SREG, register),
			number(unix.NFTA_BYTEORDER_DREG, register), number(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON),
			number(unix.NFTA_BYTEORDER_LEN, 4), number(unix.NFTA_BYTEORDER_SIZE, 4)))
	}}
)

// is matches packets whose field has this value, or begins with it.
func is(f field, value ...byte) rule { return all(f.load(register1), cmpWith(unix.NFT_CMP_EQ, value)) }

func isNot(f field, value ...byte) rule {
	return all(f.load(register1), cmpWith(unix.NFT_CMP_NEQ, value))
}

// between matches values from first to last, in network order.
func between(f field, first, last []byte) rule {
	return all(f.load(register1), cmpWith(unix.NFT_CMP_GTE, first), cmpWith(unix.NFT_CMP_LTE, last))
}

// masked compares some bits of a field of one byte.
func masked(f field, mask byte, op uint32, value byte) rule {
	return all(f.load(register1), expression("bitwise",
		number(unix.NFTA_BITWISE_SREG, register1), number(unix.NFTA_BITWISE_DREG, register1), number(unix.NFTA_BITWISE_LEN, 1),
		data(unix.NFTA_BITWISE_MASK, []byte{mask}), data(unix.NFTA_BITWISE_XOR, []byte{0})), cmpWith(op, []byte{value}))
}

func cmpWith(op uint32, value []byte) rule {
	return expression("cmp", number(unix.NFTA_CMP_SREG, register1), number(unix.NFTA_CMP_OP, op), data(unix.NFTA_CMP_DATA, value))
}

// key loads fields side by side, as sets and maps have them in their keys.
func key(fields []field) (loads rule) {
	register := uint32(register1)
	for _, f := range fields {
		loads = append(loads, f.load(register)...)
		register += uint32(f.size+3) / 4
	}
	return loads
}

// in matches packets whose fields, side by side, are in a set of ours.
func in(set int, fields ...field) rule { return lookup(ourSets[set].name, 0, fields...) }

func notIn(set int, fields ...field) rule {
	return lookup(ourSets[set].name, unix.NFT_LOOKUP_F_INV, fields...)
}

func lookup(set string, flags uint32, fields ...field) rule {
	return all(key(fields), expression("lookup", number(unix.NFTA_LOOKUP_SREG, register1), text(unix.NFTA_LOOKUP_SET, set),
		number(unix.NFTA_LOOKUP_FLAGS, flags)))
}

// dnatTo sends connections on to where a map leads them, an address and a port; what is not in the map does not match.
func dnatTo(set int, fields ...field) rule {
	return all(key(fields), expression("lookup", number(unix.NFTA_LOOKUP_SREG, register1),
		number(unix.NFTA_LOOKUP_DREG, register1), text(unix.NFTA_LOOKUP_SET, ourSets[set].name)),
		expression("nat", number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT), number(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4),
			number(unix.NFTA_NAT_REG_ADDR_MIN, register1), number(unix.NFTA_NAT_REG_PROTO_MIN, register1+1)))
}

// snatToPort has connections come from another port of the same address.
func snatToPort(port uint16) rule {
	const specified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
	return all(expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, register1), data(unix.NFTA_IMMEDIATE_DATA, net16(port))),
		expression("nat", number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT), number(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4),
			number(unix.NFTA_NAT_REG_PROTO_MIN, register1), number(unix.NFTA_NAT_FLAGS, specified)))
}

// each keeps something in a set for each key that packets have, and matches as that does. An element is taken away when no
// packet has had its key for as long as the timeout says, or without one when what it keeps is over.
func each(set string, timeout time.Duration, keep rule, fields ...field) rule {
	attrs := []attr{number(unix.NFTA_DYNSET_SREG_KEY, register1), text(unix.NFTA_DYNSET_SET_NAME, set)}
	if timeout == 0 {
		attrs = append(attrs, number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD))
	} else {
		attrs = append(attrs, number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE),
			attr{unix.NFTA_DYNSET_TIMEOUT, net64(uint64(timeout.Milliseconds()))})
	}
	attrs = append(attrs, attr{unix.NLA_F_NESTED | unix.NFTA_DYNSET_EXPR, keep[unix.SizeofNlAttr:]})
	return all(key(fields), expression("dynset", attrs...))
}

// over matches packets beyond so many a second, after a burst.
func over(rate, burst uint32) rule {
	return expression("limit", attr{unix.NFTA_LIMIT_RATE, net64(uint64(rate))}, attr{unix.NFTA_LIMIT_UNIT, net64(1)},
		number(unix.NFTA_LIMIT_BURST, burst), number(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS),
		number(unix.NFTA_LIMIT_FLAGS, unix.NFT_LIMIT_F_INV))
}

// ctCountOver matches if more connections than so many are tracked.
func ctCountOver(count uint32) rule {
	const nftaCount, nftaFlags, inverted = 1, 2, 1 // NFTA_CONNLIMIT_*, NFT_CONNLIMIT_F_INV
	return expression("connlimit", number(nftaCount, count), number(nftaFlags, inverted))
}

// ctTimeoutSet gives the connection that this packet begins the times of an object.
func ctTimeoutSet(object string) rule {
	return expression("objref", number(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CT_TIMEOUT), text(unix.NFTA_OBJREF_IMM_NAME, object))
}

var (
	counter = expression("counter")

	ipv4    = is(nfproto, unix.NFPROTO_IPV4)
	ipv6    = is(nfproto, unix.NFPROTO_IPV6)
	tcp     = is(l4proto, unix.IPPROTO_TCP)
	udp     = is(l4proto, unix.IPPROTO_UDP)
	forward = is(ctDirection, 0) // not an answer

	local   = is(daddrType, host32(unix.RTN_LOCAL)...)
	unicast = is(daddrType, host32(unix.RTN_UNICAST)...)
	fromVif = is(iifname, []byte("vif")...)
	toVif   = is(oifname, []byte("vif")...)
	toOther = isNot(oifname, []byte("vif")...)
	toLo    = is(oifname, []byte("lo\x00")...)

	syn    = masked(tcpFlags, 0x12, unix.NFT_CMP_EQ, 0x02)  // SYN without ACK asks for a connection,
	notSyn = masked(tcpFlags, 0x12, unix.NFT_CMP_NEQ, 0x02) //
	synAck = masked(tcpFlags, 0x12, unix.NFT_CMP_EQ, 0x12)  // with ACK it grants one

	accept       = verdict(1, "") // NF_ACCEPT
	drop         = verdict(0, "") // NF_DROP
	rejectReset  = expression("reject", number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST), attr{unix.NFTA_REJECT_ICMP_CODE, []byte{0}})
	rejectByICMP = expression("reject", number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH),
		attr{unix.NFTA_REJECT_ICMP_CODE, []byte{unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
)

func jump(chain string) rule { return verdict(unix.NFT_JUMP, chain) }

func goTo(chain string) rule { return verdict(unix.NFT_GOTO, chain) }

func verdict(code int32, chain string) rule {
	attrs := []attr{number(unix.NFTA_VERDICT_CODE, uint32(code))}
	if chain != "" {
		attrs = append(attrs, text(unix.NFTA_VERDICT_CHAIN, chain))
	}
	return expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		group(unix.NFTA_IMMEDIATE_DATA, group(unix.NFTA_DATA_VERDICT, attrs...)))
}

func host32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func net16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func net32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func net64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
