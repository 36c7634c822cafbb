package firewall

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/internal/sockdiag"
)

// netlink 1.3.1 finds out the machine's byte order at its first use, without a lock: let that be now.
func init() { nl.NativeEndian() }

// An Attempt is a connection that a proxy is making and that nobody has answered yet.
type Attempt struct {
	To netip.AddrPort
	// Left is false if what was sent has not left this VM: rules of it drop it. It is true where that is not known.
	Left bool
}

// Attempts returns the connections to a port that sockets of a uid are making.
func Attempts(uid uint32, port uint16) (all []Attempt, err error) {
	sockets, err := sockdiag.Connecting(uid, port)
	for _, s := range sockets {
		all = append(all, Attempt{To: s.Remote, Left: left(s.Local, s.Remote)})
	}
	return all, err
}

// left reports whether what was sent from one address to another has left this VM. Connection tracking has an entry for it
// from then on: a packet that a rule of hook output or postrouting drops never gets as far as that
// (nf_conntrack_confirm in the kernel, the last function of hook postrouting).
func left(from, to netip.AddrPort) bool {
	family, source, destination := uint8(unix.AF_INET), nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if to.Addr().Is6() {
		family, source, destination = unix.AF_INET6, nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	tuple := nl.NewRtAttr(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, nil)
	ip := tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
	ip.AddRtAttr(source, from.Addr().AsSlice())
	ip.AddRtAttr(destination, to.Addr().AsSlice())
	ports := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, from.Port()))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, to.Port()))
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(tuple)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return !errors.Is(err, unix.ENOENT)
}

// HasRoute reports whether a route leads to an address; true where that is not known.
func HasRoute(addr netip.Addr) bool {
	_, err := netlink.RouteGet(addr.AsSlice())
	return !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH)
}
