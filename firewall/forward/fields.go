package forward

import "golang.org/x/sys/unix"

// A register holds a field.
type register int

const (
	other register = iota
	outName
	outIndex
	outGroup
	outKind
	outIPsec // whether the packet leaves inside of IPsec
	outOther // something else about that interface, or about the route
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
	mark      // of the packet, or its connection, or a label of that
	fromMarks // something that was computed from a mark
	socketUID
)

func (f register) byOut() bool { return outName <= f && f <= outOther }

func (f register) byMark() bool { return f == mark || f == fromMarks }

// computed returns the register of a value that was computed from two fields.
func computed(f, g register) register {
	switch {
	case f.byOut() || g.byOut():
		return outOther
	case f.byMark() || g.byMark():
		return fromMarks
	}
	return other
}

// A content is what a register holds: a field, and the bits of it that are left.
type content struct {
	register
	mask []byte // nil: all
}

// match returns a match that is about the field.
func (c content) match(of func(asked) answer) match {
	return match{byOut: c.byOut(), byMark: c.register.byMark(), unmarked: maybe, of: of}
}

func (d *decoder) meta(e expression) {
	switch key := e.number(unix.NFTA_META_KEY); {
	case e.attr(unix.NFTA_META_DREG) != nil:
		f := metaField(key)
		if d.early && f.byOut() { // nobody knows yet
			f = other
		}
		d.put(e.number(unix.NFTA_META_DREG), f, 4*d.units(f))
		d.has(key)
	case key == unix.NFT_META_MARK:
		d.marks()
	}
}

// has adds a match for what a packet may lack: then the rule does not match, whatever it goes on to ask, by "!=" either
// (findings/negated-match-needs-its-field.sh, Linux 5.10 to 6.18).
func (d *decoder) has(key uint32) {
	switch key {
	case nftMetaOIFKind:
		d.matches = append(d.matches, match{byOut: true, of: func(q asked) answer {
			if q.out.index == 0 {
				return maybe
			}
			return whether(q.out.kind != noKind)
		}})
	case unix.NFT_META_SKUID, unix.NFT_META_SKGID, unix.NFT_META_CGROUP: // of the socket here that sends it
		d.matches = append(d.matches, match{of: func(q asked) answer {
			switch {
			case q.packet == nil:
				return never
			case q.packet.In == "":
				return always
			}
			return maybe
		}})
	}
}

// noKind is what the library calls the kind of an interface that has none, such as a network card.
const noKind = "device"

func (d *decoder) tracking(e expression) {
	key := e.number(unix.NFTA_CT_KEY)
	if e.attr(unix.NFTA_CT_DREG) == nil {
		if key == unix.NFT_CT_MARK || key == unix.NFT_CT_LABELS {
			d.marks()
		}
		return
	}
	f := other
	switch key {
	case unix.NFT_CT_STATE:
		f = ctState
	case unix.NFT_CT_MARK, unix.NFT_CT_LABELS:
		f = mark
	}
	d.put(e.number(unix.NFTA_CT_DREG), f, 16) // an address at most
}

func (d *decoder) payload(e expression) {
	if e.attr(unix.NFTA_PAYLOAD_DREG) != nil { // otherwise the rule changes the packet
		size := e.number(unix.NFTA_PAYLOAD_LEN)
		d.put(e.number(unix.NFTA_PAYLOAD_DREG),
			payloadField(d.family, e.number(unix.NFTA_PAYLOAD_BASE), e.number(unix.NFTA_PAYLOAD_OFFSET), size), int(size))
	}
}

// fib reads a look-up of the routing table. If the rule asks for the interface to the destination, that is the one by which the packet will
// leave.
func (d *decoder) fib(e expression) {
	f := map[uint32]register{unix.NFT_FIB_RESULT_ADDRTYPE: destinationType,
		unix.NFT_FIB_RESULT_OIF: outIndex, unix.NFT_FIB_RESULT_OIFNAME: outName}[e.number(unix.NFTA_FIB_RESULT)]
	switch flags := e.number(unix.NFTA_FIB_FLAGS); {
	case flags&^unix.NFTA_FIB_F_MARK == unix.NFTA_FIB_F_DADDR:
	case flags&unix.NFTA_FIB_F_OIF != 0, flags&unix.NFTA_FIB_F_DADDR != 0 && flags&unix.NFTA_FIB_F_PRESENT == 0 && f.byOut():
		f = outOther
	default:
		f = other
	}
	d.put(e.number(unix.NFTA_FIB_DREG), f, 4*d.units(f))
}

// route reads what is known of the route that the packet takes. A proxy's packet is taken to leave without IPsec: policies are about
// addresses, and it has another source than what its AppVM sends.
func (d *decoder) route(e expression) {
	f := outOther
	if e.number(unix.NFTA_RT_KEY) == nftRTXfrm {
		f = outIPsec
	}
	d.put(e.number(unix.NFTA_RT_DREG), f, 16) // an address at most
}

// xfrm reads something of the IPsec by which a packet leaves or has come. Without IPsec, the rule does not match.
func (d *decoder) xfrm(e expression) {
	d.forget()
	if dir := e.attr(nftaXfrmDir); len(dir) == 1 && dir[0] == 1 { // XFRM_POLICY_OUT
		d.put(e.number(nftaXfrmDreg), outIPsec, 16)
		d.matches = append(d.matches, match{byOut: true, of: func(q asked) answer {
			if q.packet != nil {
				return maybe
			}
			return never
		}})
	}
}

const (
	nftRTXfrm    = 4 // NFT_RT_XFRM
	nftaXfrmDreg = 1 // NFTA_XFRM_DREG
	nftaXfrmDir  = 3 // NFTA_XFRM_DIR
)

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
	case unix.NFT_META_OIFTYPE, unix.NFT_META_RTCLASSID:
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

// payloadField reads places in the headers of IPv4 and IPv6. A part of an address is a network of whole bytes. In a table for both, one
// byte after the first six or eight is the next header of IPv6, or something else of IPv4 (flags, TTL).
func payloadField(family byte, base, offset, length uint32) register {
	four, six := family != unix.NFPROTO_IPV6, family != unix.NFPROTO_IPV4
	switch base {
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		switch {
		case four && offset == 9 && length == 1, six && !four && offset == 6 && length == 1:
			return l4Protocol
		case four && offset == 12 && length <= 4, six && offset == 8 && 1 < length && length <= 16:
			return source
		case four && offset == 16 && length <= 4, six && offset == 24 && length <= 16:
			return destination
		}
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		if offset == 2 && length == 2 {
			return destinationPort
		}
	}
	return other
}
