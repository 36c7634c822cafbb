package netwatch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The body of an rtnetlink message (linux/rtnetlink.h) is a fixed structure, whose first byte is an address
// family, and attributes. Of the 1.5 kB that describe one link, only what decides about a connection is
// decoded. A general library decodes all of it: a list of 250 vifs takes that four times as long, and leaves a
// dozen times as much garbage.
//
// What the kernel would call malformed is an error, never a shorter list.

// link is what matters of a struct ifinfomsg.
type link struct {
	index int32
	name  string
	up    bool // administratively
}

// address is what matters of a struct ifaddrmsg of family IPv4.
type address struct {
	index     int32
	local     netip.Addr
	secondary bool // in the subnet of an earlier address of the link
}

// route is what matters of a struct rtmsg of family IPv4.
type route struct {
	dst   netip.Addr // not valid in a default route
	bits  uint8
	table uint8 // RT_TABLE_*
	kind  uint8 // RTN_*
	oif   int32 // 0 when it leads nowhere (a blackhole) or to several links
	via   bool  // by way of another router
}

// toHost reports whether r belongs to the routes that can lead to an AppVM, whatever link it leads to and
// whatever is done there.
func (r route) toHost() bool {
	return r.table == unix.RT_TABLE_MAIN && r.bits == 32 && r.dst.IsValid()
}

var errMalformed = errors.New("malformed netlink message")

// family is the address family of a message, whatever its type.
func family(body []byte) uint8 {
	if len(body) == 0 {
		return unix.AF_MAX
	}
	return body[0]
}

func decodeLink(body []byte) (l link, err error) {
	if len(body) < unix.SizeofIfInfomsg {
		return l, errMalformed
	}
	l.index = int32(binary.NativeEndian.Uint32(body[4:]))
	l.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	err = attributes(body[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) error {
		if kind == unix.IFLA_IFNAME {
			name, _, _ := bytes.Cut(value, []byte{0})
			l.name = string(name)
		}
		return nil
	})
	return l, err
}

func decodeAddress(body []byte) (a address, err error) {
	if len(body) < unix.SizeofIfAddrmsg {
		return a, errMalformed
	}
	a.index = int32(binary.NativeEndian.Uint32(body[4:]))
	a.secondary = body[2]&unix.IFA_F_SECONDARY != 0
	err = attributes(body[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) (err error) {
		// Not IFA_ADDRESS, which is the address of the other end where there is a peer address.
		if kind == unix.IFA_LOCAL {
			a.local, err = ipv4(value)
		}
		return err
	})
	return a, err
}

func decodeRoute(body []byte) (r route, err error) {
	if len(body) < unix.SizeofRtMsg {
		return r, errMalformed
	}
	// rtm_table is one byte: tables above 255 appear as RT_TABLE_COMPAT, and main is 254.
	r.bits, r.table, r.kind = body[1], body[4], body[7]
	err = attributes(body[unix.SizeofRtMsg:], func(kind uint16, value []byte) (err error) {
		switch kind {
		case unix.RTA_DST:
			r.dst, err = ipv4(value)
		case unix.RTA_OIF:
			if len(value) != 4 {
				return errMalformed
			}
			r.oif = int32(binary.NativeEndian.Uint32(value))
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			r.via = true
		}
		return err
	})
	return r, err
}

func ipv4(value []byte) (netip.Addr, error) {
	if len(value) != 4 {
		return netip.Addr{}, errMalformed
	}
	return netip.AddrFrom4([4]byte(value)), nil
}

// attributes calls each for every attribute (struct rtattr) until it returns an error.
func attributes(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofRtAttr {
			return errMalformed
		}
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if size < unix.SizeofRtAttr || size > len(b) {
			return errMalformed
		}
		if err := each(kind, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		padded := (size + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
		b = b[min(padded, len(b)):]
	}
	return nil
}
