package netwatch

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"vifproxy/internal/netlink"
)

// The body of an rtnetlink message (linux/rtnetlink.h) is a fixed structure, whose first byte is an address
// family, and attributes. Of the 1.5 kB that describe one link, only what decides about a connection is
// decoded. A general library decodes all of it: a list of 250 vifs takes that four times as long, and leaves a
// dozen times as much garbage.
//
// A message that the kernel would call malformed is an error, never a shorter list.

// A link is what matters of a struct ifinfomsg.
type link struct {
	index int32
	name  string
	up    bool // administratively
}

// An address is what matters of a struct ifaddrmsg of family IPv4.
type address struct {
	index     int32
	local     netip.Addr
	secondary bool // in the subnet of an earlier address of the link
}

// A route is what matters of a struct rtmsg of family IPv4.
type route struct {
	dst   netip.Addr // not valid in a default route
	bits  uint8
	table uint8 // RT_TABLE_*
	kind  uint8 // RTN_*
	oif   int32 // 0 when it leads nowhere (a blackhole) or to several links
	via   bool  // by way of another router
}

// toHost reports whether r is a route that can lead to an AppVM, whatever its link and its kind.
func (r route) toHost() bool {
	return r.table == unix.RT_TABLE_MAIN && r.bits == 32 && r.dst.IsValid()
}

// family returns the address family of a message of any type.
func family(body []byte) uint8 {
	if len(body) == 0 {
		return unix.AF_MAX
	}
	return body[0]
}

func decodeLink(body []byte) (l link, err error) {
	if len(body) < unix.SizeofIfInfomsg {
		return l, netlink.ErrMalformed
	}
	l.index = int32(binary.NativeEndian.Uint32(body[4:]))
	l.up = binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0
	var d netlink.Decoder
	for kind, value := range d.All(body[unix.SizeofIfInfomsg:]) {
		if kind == unix.IFLA_IFNAME {
			name, _, _ := bytes.Cut(value, []byte{0})
			l.name = string(name)
		}
	}
	return l, d.Err()
}

func decodeAddress(body []byte) (a address, err error) {
	if len(body) < unix.SizeofIfAddrmsg {
		return a, netlink.ErrMalformed
	}
	a.index = int32(binary.NativeEndian.Uint32(body[4:]))
	a.secondary = body[2]&unix.IFA_F_SECONDARY != 0
	var d netlink.Decoder
	for kind, value := range d.All(body[unix.SizeofIfAddrmsg:]) {
		// Not IFA_ADDRESS, which is the address of the other end where there is a peer address.
		if kind == unix.IFA_LOCAL {
			if a.local, err = ipv4(value); err != nil {
				return a, err
			}
		}
	}
	return a, d.Err()
}

func decodeRoute(body []byte) (r route, err error) {
	if len(body) < unix.SizeofRtMsg {
		return r, netlink.ErrMalformed
	}
	// rtm_table is one byte: tables above 255 appear as RT_TABLE_COMPAT, and main is 254.
	r.bits, r.table, r.kind = body[1], body[4], body[7]
	var d netlink.Decoder
	for kind, value := range d.All(body[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			if r.dst, err = ipv4(value); err != nil {
				return r, err
			}
		case unix.RTA_OIF:
			if len(value) != 4 {
				return r, netlink.ErrMalformed
			}
			r.oif = int32(binary.NativeEndian.Uint32(value))
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			r.via = true
		}
	}
	return r, d.Err()
}

func ipv4(value []byte) (netip.Addr, error) {
	if len(value) != 4 {
		return netip.Addr{}, netlink.ErrMalformed
	}
	return netip.AddrFrom4([4]byte(value)), nil
}
