package forward

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// compare returns the match of a field with a value.
func (d *decoder) compare(c content, op uint32, value []byte) match {
	if op != unix.NFT_CMP_EQ && op != unix.NFT_CMP_NEQ {
		return c.match(func(q asked) answer {
			if q.packet != nil {
				return q.packet.compare(c, op, value)
			}
			return maybe
		})
	}
	m := c.exactly(d.equals(c, value), value, value)
	if op == unix.NFT_CMP_NEQ {
		m = m.inverted()
	}
	return m
}

// nameOf reads a name in a rule. Without a NUL at its end it stands for all names that begin so.
func nameOf(value []byte) linkName {
	text, _, whole := bytes.Cut(value, []byte{0})
	return linkName{string(text), !whole && len(value) < ifNameSize}
}

// equals returns whether a field has a value.
func (d *decoder) equals(c content, value []byte) func(asked) answer {
	number := uint32(0)
	if len(value) == 4 {
		number = binary.NativeEndian.Uint32(value)
	}
	said := func(a answer) func(asked) answer { return func(asked) answer { return a } }
	switch {
	case c.register == destination:
		network := value
		if c.mask != nil {
			network = c.mask
			if len(c.mask) > 0 && c.mask[0] != 0xff { // wider than any private network
				return said(maybe)
			}
		}
		if len(network) == 0 {
			return said(maybe)
		}
		return said(never)
	case c.register == ctState && c.mask != nil && len(c.mask) == 4 && number == 0: // none of these states
		return match{of: state(binary.NativeEndian.Uint32(c.mask))}.inverted().of
	case c.mask != nil:
		return said(maybe)
	}
	switch c.register {
	case outName:
		name := nameOf(value)
		if !name.prefix {
			d.chain.out = append(d.chain.out, name.name)
		}
		return name.out
	case outIndex:
		return func(q asked) answer { return whether(q.out.index == number && number != 0) }
	case outGroup:
		return func(q asked) answer { return whether(q.out.group == number) }
	case inName:
		return nameOf(value).in
	case inIndexOf:
		return inIndex(number)
	case inGroupOf:
		return inGroup(number)
	case outKind:
		return func(q asked) answer {
			if q.out.index == 0 {
				return maybe
			}
			return whether(q.out.kind == string(bytes.TrimRight(value, "\x00")))
		}
	case outIPsec:
		return func(q asked) answer {
			if len(value) != 1 { // of a state: there is none
				return never
			}
			return whether(value[0] == 0)
		}
	case ctState:
		return state(number)
	case ipVersion:
		return func(q asked) answer {
			return whether(q.six && bytes.Equal(value, []byte{unix.NFPROTO_IPV6}) || !q.six && bytes.Equal(value, []byte{unix.NFPROTO_IPV4}))
		}
	case etherType:
		return func(q asked) answer {
			return whether(q.six && bytes.Equal(value, []byte{0x86, 0xdd}) || !q.six && bytes.Equal(value, []byte{0x08, 0x00}))
		}
	case l4Protocol:
		if len(value) == 1 {
			return said(protocol(value[0]))
		}
	case destinationPort:
		if len(value) == 2 {
			port := binary.BigEndian.Uint16(value)
			return said(ports(port, port))
		}
	case destinationType:
		return said(whether(number == unix.RTN_UNICAST))
	}
	return said(maybe)
}

// between returns whether a field has a value in a range.
func (d *decoder) between(c content, from, to []byte) match {
	return c.exactly(d.within(c, from, to).of, from, to)
}

// exactly returns a match that compares values if all is known of the packet.
func (c content) exactly(of func(asked) answer, from, to []byte) match {
	m := c.match(func(q asked) answer {
		if q.packet != nil {
			return q.packet.between(c, from, to)
		}
		return of(q)
	})
	if c.register == mark && bytes.Equal(from, to) {
		m.unmarked = whether(zero(from))
	}
	return m
}

func (d *decoder) within(c content, from, to []byte) match {
	said := func(a answer) match { return c.match(func(asked) answer { return a }) }
	switch {
	case c.mask != nil || len(from) == 0 || len(from) != len(to):
	case c.register == destination && from[0] == to[0]: // within one network of 8 bits
		return said(never)
	case c.register == destinationPort && len(from) == 2:
		return said(ports(binary.BigEndian.Uint16(from), binary.BigEndian.Uint16(to)))
	case c.register == outGroup && len(from) == 4:
		first, last := binary.BigEndian.Uint32(from), binary.BigEndian.Uint32(to)
		return c.match(func(q asked) answer { return whether(first <= q.out.group && q.out.group <= last) })
	case c.register == outName: // "eth*" in a set: its bytes from "eth" on, and all that follows
		return c.match(func(q asked) answer {
			var name [ifNameSize]byte
			copy(name[:], q.out.name)
			return whether(bytes.Compare(from, name[:]) <= 0 && bytes.Compare(name[:], to) <= 0)
		})
	case c.register == inName:
		first, last := make([]byte, len(from)), bytes.Repeat([]byte{0xff}, len(from)) // of all names of vifs
		copy(first, "vif")
		copy(last, "vif")
		switch {
		case bytes.Compare(from, first) <= 0 && bytes.Compare(last, to) <= 0:
			return said(always)
		case bytes.Compare(to, first) < 0 || bytes.Compare(last, from) < 0:
			return said(never)
		}
	}
	return said(maybe)
}
