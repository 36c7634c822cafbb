package nft

import (
	"encoding/binary"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// Rules are made of these words. Each is named as nft writes it, and consists of the expressions that nft 1.0.6 makes of that
// text, so that every nft can list the rules.

// A Rule is a list of expressions as the kernel reads them. The kernel evaluates one after the other until one does not match.
type Rule []byte

// All is the Rule that has all these parts.
func All(parts ...Rule) Rule { return slices.Concat(parts...) }

// An Attr is an attribute of an expression.
type Attr struct {
	Kind uint16
	Data []byte
}

// Number returns an attribute that is a number.
func Number(n uint16, value uint32) Attr { return Attr{n, net32(value)} }

// Text returns an attribute that is a string.
func Text(n uint16, value string) Attr { return Attr{n, append([]byte(value), 0)} }

func group(n uint16, attrs ...Attr) Attr {
	var data []byte
	for _, a := range attrs {
		data = netlink.Append(data, a.Kind, a.Data...)
	}
	return Attr{unix.NLA_F_NESTED | n, data}
}

func data(n uint16, value []byte) Attr { return group(n, Attr{unix.NFTA_DATA_VALUE, value}) }

// Expression returns one expression of a kind, such as "cmp".
func Expression(kind string, attrs ...Attr) Rule {
	e := group(unix.NFTA_LIST_ELEM, Text(unix.NFTA_EXPR_NAME, kind), group(unix.NFTA_EXPR_DATA, attrs...))
	return netlink.Append(nil, e.Kind, e.Data...)
}

// A field is a part of a packet that rules compare, or something that the kernel knows about the packet.
type field struct {
	size int // in bytes
	load func(register uint32) Rule
}

// register1 is the first of the kernel's registers, of 4 bytes each; a longer value continues in the next ones.
const register1 = unix.NFT_REG32_00

func meta(key uint32, size int) field {
	return field{size, func(register uint32) Rule {
		return Expression("meta", Number(unix.NFTA_META_KEY, key), Number(unix.NFTA_META_DREG, register))
	}}
}

func payload(base, offset uint32, size int) field {
	return field{size, func(register uint32) Rule {
		return Expression("payload", Number(unix.NFTA_PAYLOAD_DREG, register), Number(unix.NFTA_PAYLOAD_BASE, base),
			Number(unix.NFTA_PAYLOAD_OFFSET, offset), Number(unix.NFTA_PAYLOAD_LEN, uint32(size)))
	}}
}

// original returns a field of the packet that began the connection.
func original(key uint32, size int) field {
	return field{size, func(register uint32) Rule {
		return Expression("ct", Number(unix.NFTA_CT_KEY, key), Number(unix.NFTA_CT_DREG, register),
			Attr{unix.NFTA_CT_DIRECTION, []byte{0}})
	}}
}

var (
	iifname = meta(unix.NFT_META_IIFNAME, unix.IFNAMSIZ)
	oifname = meta(unix.NFT_META_OIFNAME, unix.IFNAMSIZ)
	nfproto = meta(unix.NFT_META_NFPROTO, 1)
	l4proto = meta(unix.NFT_META_L4PROTO, 1)
	skuid   = meta(unix.NFT_META_SKUID, 4)

	ipSaddr      = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4)
	ipSaddrFirst = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 1)
	ipDaddr      = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4)
	ip6Daddr     = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
	sport        = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2)
	dport        = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
	tcpFlags     = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1)
	icmpType     = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)

	originalDaddr    = original(unix.NFT_CT_DST_IP, 4)
	originalIP6Daddr = original(unix.NFT_CT_DST_IP6, 16)
	originalDport    = original(unix.NFT_CT_PROTO_DST, 2)

	ctDirection = field{1, func(register uint32) Rule {
		return Expression("ct", Number(unix.NFTA_CT_KEY, unix.NFT_CT_DIRECTION), Number(unix.NFTA_CT_DREG, register))
	}}

	daddrType = field{4, func(register uint32) Rule { // what the routing tables call the address: fib daddr type
		return Expression("fib", Number(unix.NFTA_FIB_DREG, register), Number(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE),
			Number(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR))
	}}

	// The uid in network order, in which the kernel compares intervals. nft 1.0.6 and later convert it so for sets of intervals.
	skuidTurned = field{4, func(register uint32) Rule {
		return All(skuid.load(register), Expression("byteorder", Number(unix.NFTA_BYTEORDER_SREG, register),
			Number(unix.NFTA_BYTEORDER_DREG, register), Number(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON),
			Number(unix.NFTA_BYTEORDER_LEN, 4), Number(unix.NFTA_BYTEORDER_SIZE, 4)))
	}}
)

// is matches packets whose field has this value, or begins with it.
func is(f field, value ...byte) Rule { return All(f.load(register1), cmpWith(unix.NFT_CMP_EQ, value)) }
func isNot(f field, value ...byte) Rule {
	return All(f.load(register1), cmpWith(unix.NFT_CMP_NEQ, value))
}

// between matches values from first to last, in network order.
func between(f field, first, last []byte) Rule {
	return All(f.load(register1), cmpWith(unix.NFT_CMP_GTE, first), cmpWith(unix.NFT_CMP_LTE, last))
}

// masked compares some bits of a field of one byte.
func masked(f field, mask byte, op uint32, value byte) Rule {
	return All(f.load(register1), Expression("bitwise",
		Number(unix.NFTA_BITWISE_SREG, register1), Number(unix.NFTA_BITWISE_DREG, register1), Number(unix.NFTA_BITWISE_LEN, 1),
		data(unix.NFTA_BITWISE_MASK, []byte{mask}), data(unix.NFTA_BITWISE_XOR, []byte{0})), cmpWith(op, []byte{value}))
}

func cmpWith(op uint32, value []byte) Rule {
	return Expression("cmp", Number(unix.NFTA_CMP_SREG, register1), Number(unix.NFTA_CMP_OP, op), data(unix.NFTA_CMP_DATA, value))
}

// key loads fields side by side, as sets and maps have them in their keys.
func key(fields []field) (loads Rule) {
	register := uint32(register1)
	for _, f := range fields {
		loads = append(loads, f.load(register)...)
		register += uint32(f.size+3) / 4
	}
	return loads
}

// in matches packets whose fields, side by side, are in a set of ours.
func in(s *set, fields ...field) Rule    { return lookup(s.name, 0, fields...) }
func notIn(s *set, fields ...field) Rule { return lookup(s.name, unix.NFT_LOOKUP_F_INV, fields...) }

func lookup(set string, flags uint32, fields ...field) Rule {
	return All(key(fields), Expression("lookup", Number(unix.NFTA_LOOKUP_SREG, register1), Text(unix.NFTA_LOOKUP_SET, set),
		Number(unix.NFTA_LOOKUP_FLAGS, flags)))
}

// outside matches addresses that are not in a constant set.
func outside(set string, addr field) Rule { return lookup(set, unix.NFT_LOOKUP_F_INV, addr) }

// dnatTo sends connections on to the address and port that a map has for them. It does not match if the map has none.
func dnatTo(s *set, fields ...field) Rule {
	return All(key(fields), Expression("lookup", Number(unix.NFTA_LOOKUP_SREG, register1),
		Number(unix.NFTA_LOOKUP_DREG, register1), Text(unix.NFTA_LOOKUP_SET, s.name)),
		Expression("nat", Number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT), Number(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4),
			Number(unix.NFTA_NAT_REG_ADDR_MIN, register1), Number(unix.NFTA_NAT_REG_PROTO_MIN, register1+1)))
}

// ctZoneSet has the packet tracked in the zone that a map has for it. It does not match if the map has none.
func ctZoneSet(s *set, fields ...field) Rule {
	return All(key(fields), Expression("lookup", Number(unix.NFTA_LOOKUP_SREG, register1),
		Number(unix.NFTA_LOOKUP_DREG, register1), Text(unix.NFTA_LOOKUP_SET, s.name)),
		Expression("ct", Number(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE), Number(unix.NFTA_CT_SREG, register1)))
}

// snatToPort makes connections come from another port of the same address.
func snatToPort(port uint16) Rule {
	const specified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
	return All(Expression("immediate", Number(unix.NFTA_IMMEDIATE_DREG, register1), data(unix.NFTA_IMMEDIATE_DATA, net16(port))),
		Expression("nat", Number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_SNAT), Number(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4),
			Number(unix.NFTA_NAT_REG_PROTO_MIN, register1), Number(unix.NFTA_NAT_FLAGS, specified)))
}

// each keeps something in a set for each key that packets have, and matches if that matches. An element goes when no packet has had
// its key for as long as the timeout; without a timeout, when the thing that it keeps is over.
func each(set string, timeout time.Duration, keep Rule, fields ...field) Rule {
	attrs := []Attr{Number(unix.NFTA_DYNSET_SREG_KEY, register1), Text(unix.NFTA_DYNSET_SET_NAME, set)}
	if timeout == 0 {
		attrs = append(attrs, Number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_ADD))
	} else {
		attrs = append(attrs, Number(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE),
			Attr{unix.NFTA_DYNSET_TIMEOUT, net64(uint64(timeout.Milliseconds()))})
	}
	attrs = append(attrs, Attr{unix.NLA_F_NESTED | unix.NFTA_DYNSET_EXPR, keep[unix.SizeofNlAttr:]})
	return All(key(fields), Expression("dynset", attrs...))
}

// over matches packets beyond so many a second, after a burst.
func over(rate, burst uint32) Rule { return limit(rate, burst, unix.NFT_LIMIT_F_INV) }

// within matches the others.
func within(rate, burst uint32) Rule { return limit(rate, burst, 0) }

func limit(rate, burst, flags uint32) Rule {
	return Expression("limit", Attr{unix.NFTA_LIMIT_RATE, net64(uint64(rate))}, Attr{unix.NFTA_LIMIT_UNIT, net64(1)},
		Number(unix.NFTA_LIMIT_BURST, burst), Number(unix.NFTA_LIMIT_TYPE, unix.NFT_LIMIT_PKTS),
		Number(unix.NFTA_LIMIT_FLAGS, flags))
}

// ctCountWithin matches if no more connections than so many are tracked. Connections that are over (TIME_WAIT, CLOSE) do not count
// (already_closed in net/netfilter/nf_conncount.c of Linux 5.0 and later).
func ctCountWithin(count uint32) Rule {
	return Expression("connlimit", Number(1, count), Number(2, 0)) // NFTA_CONNLIMIT_COUNT, NFTA_CONNLIMIT_FLAGS
}

// ctTimeoutSet gives the connection that this packet begins the times of an object.
func ctTimeoutSet(object string) Rule {
	return Expression("objref", Number(unix.NFTA_OBJREF_IMM_TYPE, unix.NFT_OBJECT_CT_TIMEOUT), Text(unix.NFTA_OBJREF_IMM_NAME, object))
}

var (
	counter = Expression("counter")
	notrack = Expression("notrack")

	ipv4 = is(nfproto, unix.NFPROTO_IPV4)
	ipv6 = is(nfproto, unix.NFPROTO_IPV6)
	TCP  = is(l4proto, unix.IPPROTO_TCP)
	udp  = is(l4proto, unix.IPPROTO_UDP)

	forward  = is(ctDirection, 0) // not an answer
	backward = is(ctDirection, 1) // an answer

	local     = is(daddrType, host32(unix.RTN_LOCAL)...)
	unicast   = is(daddrType, host32(unix.RTN_UNICAST)...)
	FromVif   = is(iifname, []byte("vif")...)
	notFromLo = isNot(iifname, []byte("lo\x00")...)
	toVif     = is(oifname, []byte("vif")...)
	toOther   = isNot(oifname, []byte("vif")...)
	toLo      = is(oifname, []byte("lo\x00")...)
	notToLo   = isNot(oifname, []byte("lo\x00")...)

	syn    = masked(tcpFlags, 0x12, unix.NFT_CMP_EQ, 0x02)  // SYN without ACK asks for a connection,
	notSyn = masked(tcpFlags, 0x12, unix.NFT_CMP_NEQ, 0x02) //
	synAck = masked(tcpFlags, 0x12, unix.NFT_CMP_EQ, 0x12)  // with ACK it grants one
	noSyn  = masked(tcpFlags, 0x02, unix.NFT_CMP_EQ, 0)     // neither

	Accept       = verdict(1, "") // NF_ACCEPT
	drop         = verdict(0, "") // NF_DROP
	rejectReset  = Expression("reject", Number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST), Attr{unix.NFTA_REJECT_ICMP_CODE, []byte{0}})
	rejectByICMP = Expression("reject", Number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH),
		Attr{unix.NFTA_REJECT_ICMP_CODE, []byte{unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}})
)

func jump(chain string) Rule { return verdict(unix.NFT_JUMP, chain) }
func goTo(chain string) Rule { return verdict(unix.NFT_GOTO, chain) }

func verdict(code int32, chain string) Rule {
	attrs := []Attr{Number(unix.NFTA_VERDICT_CODE, uint32(code))}
	if chain != "" {
		attrs = append(attrs, Text(unix.NFTA_VERDICT_CHAIN, chain))
	}
	return Expression("immediate", Number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		group(unix.NFTA_IMMEDIATE_DATA, group(unix.NFTA_DATA_VERDICT, attrs...)))
}

func host32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
func net16(n uint16) []byte  { return binary.BigEndian.AppendUint16(nil, n) }
func net32(n uint32) []byte  { return binary.BigEndian.AppendUint32(nil, n) }
func net64(n uint64) []byte  { return binary.BigEndian.AppendUint64(nil, n) }
