package match

import (
	"encoding/binary"
	"net/netip"
)

// A number is the beginning of what getaddrinfo(3) takes for an address of IPv4 without asking a name server, read from its end: one
// to four numbers between dots, in decimal, octal or hexadecimal (inet_aton_end in resolv/inet_addr.c of glibc 2.36). The first ones are
// a byte each, the last one is the rest of the address. Comparable.
type number struct {
	parts         [3]uint64 // that are complete, the last one first
	count         int       // of them
	state         reading
	zero          bool // this part begins with 0, as far as it is read
	decimal, octa bool // this part may be decimal, may be octal, by its digits
	dec, oct, hex figure
	abstract      bool // values do not count: they are all 0
}

// A reading is how far a number has come in the part that is read.
type reading byte

const (
	atDot    reading = iota // nothing is read of it
	digits                  // digits, which are hexadecimal if x comes before them
	atX                     // 0 has to come before it
	prefixed                // it is complete
)

// A figure is the value of some digits, and that of a 1 before them.
type figure struct{ value, weight uint64 }

// tooLarge is the value and the weight of what is no longer within an address.
const tooLarge = 1 << 33

// with returns the figure with one digit more before it.
func (f figure) with(digit, base uint64) figure {
	return figure{min(f.value+digit*f.weight, tooLarge), min(f.weight*base, tooLarge)}
}

// next returns the number with one character more before it, in lower case, and reports whether it can be the end of one.
func (n number) next(c byte) (number, bool) {
	digit := uint64(16)
	switch {
	case '0' <= c && c <= '9':
		digit = uint64(c - '0')
	case 'a' <= c && c <= 'f':
		digit = uint64(c - 'a' + 10)
	}
	switch {
	case c == '.':
		value, ok := n.part()
		if !ok || n.count == len(n.parts) {
			return n, false
		}
		parts := n.parts
		parts[n.count] = value
		return number{parts: parts, count: n.count + 1, abstract: n.abstract}, true
	case n.state == atDot && digit < 16:
		n.state, n.zero, n.decimal, n.octa = digits, c == '0', digit < 10, digit < 8
		if one := (figure{weight: 1}); !n.abstract {
			n.dec, n.oct, n.hex = one.with(digit, 10), one.with(digit, 8), one.with(digit, 16)
		}
	case n.state == digits && digit < 16:
		n.zero, n.decimal, n.octa = c == '0', n.decimal && digit < 10, n.octa && digit < 8
		n.dec, n.oct, n.hex = n.dec.with(digit, 10), n.oct.with(digit, 8), n.hex.with(digit, 16)
	case n.state == digits && c == 'x':
		n.state = atX
	case n.state == atX && c == '0':
		n.state = prefixed
	default:
		return n, false
	}
	return n, n.possible()
}

// possible reports whether any value of the part is within an address.
func (n number) possible() bool {
	return n.decimal && n.dec.value < tooLarge || n.octa && n.oct.value < tooLarge || n.hex.value < tooLarge
}

// part returns the value of the part that is read, if that is complete as it stands.
func (n number) part() (value uint64, ok bool) {
	switch {
	case n.state == prefixed:
		value, ok = n.hex.value, true
	case n.state == digits && n.zero:
		value, ok = n.oct.value, n.octa
	case n.state == digits:
		value, ok = n.dec.value, n.decimal
	}
	most := uint64(0xffffffff)
	if n.count > 0 {
		most = 0xff
	}
	return value, ok && value <= most
}

// addr returns the address, if the number is complete as it stands.
func (n number) addr() (addr netip.Addr, ok bool) {
	value, ok := n.part()
	if !ok {
		return addr, false
	}
	all := [4]uint64{}
	copy(all[:], n.parts[:n.count])
	all[n.count] = value // the last part first
	rest := all[0]
	if rest > 0xffffffff>>(8*n.count) {
		return addr, false
	}
	for i := 1; i <= n.count; i++ { // the first part is the first byte
		rest |= all[i] << (8 * (4 - 1 - (n.count - i)))
	}
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(rest)))), true
}

// shape returns the number without its values.
func (n number) shape() number {
	return number{count: n.count, state: n.state, zero: n.zero, decimal: n.decimal, octa: n.octa, abstract: true}
}
