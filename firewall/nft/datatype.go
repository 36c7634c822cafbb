package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// datatype is one part of a key, or of what a key leads to. To nft it is a number (enum datatypes in its
// include/datatype.h), to the kernel some bytes.
type datatype struct {
	number    uint32
	size      int                 // in bytes
	hostOrder bool                // nft takes its bytes to be in this computer's order
	text      func([]byte) string // as nft writes it
}

var (
	nfProto     = datatype{2, 1, true, func(b []byte) string { return map[byte]string{2: "ipv4", 10: "ipv6"}[b[0]] }}
	ipv4Addr    = datatype{7, 4, false, addrText}
	ipv6Addr    = datatype{8, 16, false, addrText}
	inetService = datatype{13, 2, false, func(b []byte) string { return strconv.Itoa(int(binary.BigEndian.Uint16(b))) }}
	ctZone      = datatype{4, 2, true, func(b []byte) string { return fmt.Sprint(binary.NativeEndian.Uint16(b)) }}
	uid         = datatype{24, 4, true, func(b []byte) string { return fmt.Sprint(binary.NativeEndian.Uint32(b)) }}
	ifname      = datatype{41, unix.IFNAMSIZ, true, func(b []byte) string { return strconv.Quote(strings.TrimRight(string(b), "\x00")) }}

	// In a set of intervals, whose keys the kernel compares byte by byte, a uid is in network order.
	uidInInterval = datatype{24, 4, true, func(b []byte) string { return fmt.Sprint(binary.BigEndian.Uint32(b)) }}
)

func addrText(b []byte) string {
	addr, _ := netip.AddrFromSlice(b)
	return addr.String()
}

func nfProtoBytes(family byte) []byte      { return []byte{family} }
func addrBytes(addr netip.Addr) []byte     { return addr.AsSlice() }
func portBytes(port uint16) []byte         { return net16(port) }
func zoneBytes(zone uint16) []byte         { return binary.NativeEndian.AppendUint16(nil, zone) }
func uidBytes(uid uint32) []byte           { return host32(uid) }
func uidInIntervalBytes(uid uint32) []byte { return net32(uid) }

func ifnameBytes(name string) []byte {
	all := make([]byte, unix.IFNAMSIZ)
	copy(all, name)
	return all
}

// tuple returns parts side by side, as the kernel has them: if there are several, each is padded to a multiple of 4 bytes.
func tuple(parts ...[]byte) string {
	if len(parts) == 1 {
		return string(parts[0])
	}
	all := make([]byte, 0, 64) // three parts, at most an owner, an IPv6 address and a port, or a name in place of the first two
	for _, part := range parts {
		all = append(all, part...)
		all = append(all, "\x00\x00\x00"[:-len(part)&3]...)
	}
	return string(all)
}

// parts splits a tuple again, as far as it goes.
func parts(types []datatype, tuple string) (all [][]byte) {
	for _, t := range types {
		if len(tuple) < t.size {
			break
		}
		all = append(all, []byte(tuple[:t.size]))
		tuple = tuple[min((t.size+3)&^3, len(tuple)):]
	}
	return all
}

// tupleText returns a tuple as nft writes it. If last is another tuple, it is the end of an interval.
func tupleText(types []datatype, first, last string) string {
	var texts []string
	ends := parts(types, last)
	for i, part := range parts(types, first) {
		text := types[i].text(part)
		if i < len(ends) {
			if end := types[i].text(ends[i]); end != text {
				text = intervalText(part, ends[i], text+"-"+end)
			}
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, " . ")
}

// intervalText returns a network as nft writes it, from its first to its last address. Other intervals are written as other.
func intervalText(first, last []byte, other string) string {
	from, ok1 := netip.AddrFromSlice(first)
	to, ok2 := netip.AddrFromSlice(last)
	if !ok1 || !ok2 {
		return other
	}
	for bits := range from.BitLen() {
		if net := netip.PrefixFrom(from, bits); net.Masked() == net && lastOf(net) == to {
			return net.String()
		}
	}
	return other
}

// lastOf returns the last address of a network.
func lastOf(net netip.Prefix) netip.Addr {
	last := net.Addr().AsSlice()
	for bit := net.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr
}
