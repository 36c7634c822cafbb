// Package tracking looks after the kernel's table of tracked connections: it forgets those of proxies that have ended, evicts entries
// whose time is over, and says for how many there is room.
//
// Concurrency: all functions may be called from any goroutine; they are about the network of the calling thread.
package tracking

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/internal/sockdiag"
)

// Connection tracking keeps the entry of a connection for days (nf_conntrack_tcp_timeout_established) if it does not see the end
// of the connection. A proxy that ends tells its clients, but cannot tell a client whose vif is gone. As long as the entry is
// there, the AppVM's next connection from the same port is translated to the port of the old proxy, where the guard resets it.

// Forget deletes tracked connections from these addresses to a proxy that listened at to and has ended. Its cost does not depend
// on how many connections the firewall VM forwards.
func Forget(to netip.AddrPort, from []netip.AddrPort) error {
	for _, client := range from {
		tuple := nl.NewRtAttr(nl.CTA_TUPLE_REPLY|unix.NLA_F_NESTED, nil) // as the proxy answers
		ip := tuple.AddRtAttr(nl.CTA_TUPLE_IP|unix.NLA_F_NESTED, nil)
		ip.AddRtAttr(nl.CTA_IP_V4_SRC, to.Addr().AsSlice())
		ip.AddRtAttr(nl.CTA_IP_V4_DST, client.Addr().AsSlice())
		ports := tuple.AddRtAttr(nl.CTA_TUPLE_PROTO|unix.NLA_F_NESTED, nil)
		ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
		ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, to.Port()))
		ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, client.Port()))

		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
		req.AddData(tuple)
		if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) { // it knew
			return fmt.Errorf("forget the connection of %s to %s: %w", client, to, err)
		}
	}
	return nil
}

// ForgetAll deletes tracked connections that lead nowhere, of proxies of which nothing else is known: those of AppVMs that have
// none of these bindings, and those that have no socket here any more. A socket without a process may still deliver the
// end of a page. ForgetAll reads the whole table, and returns how many connections it deleted. It does no harm to a connection
// that is bound meanwhile: that is tracked again, with the same translation, at its next packet.
func ForgetAll(c firewall.Config, bindings []firewall.Binding) (forgotten int, err error) {
	dead := deadConnections{Config: c, bound: make(map[netip.Addr]bool)}
	for _, b := range bindings {
		dead.bound[b.Addr] = true
	}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, &dead)
	if err == nil {
		err = dead.err
	}
	if err != nil {
		err = fmt.Errorf("forget connections of proxies that have ended: %w", err)
	}
	return int(n), err
}

// deadConnections matches them. The library calls it when it has read all entries, and only then deadConnections looks at the
// sockets: otherwise a connection made meanwhile would seem dead.
type deadConnections struct {
	firewall.Config
	bound map[netip.Addr]bool
	alive map[connection]bool
	err   error
}

// connection is that of an AppVM to a proxy's port.
type connection struct {
	from netip.AddrPort
	to   uint16 // where the proxy listens
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (d *deadConnections) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_TCP {
		return false
	}
	asked, answers := flow.Forward, flow.Reverse
	if flow.Reverse.DstPort == d.ProxyPort { // tracked since an answer, see chain postrouting in firewall/nft/skeleton.go
		asked = netlink.IPTuple{SrcIP: flow.Reverse.SrcIP, SrcPort: flow.Reverse.SrcPort, DstPort: flow.Reverse.DstPort}
		answers = netlink.IPTuple{SrcPort: flow.Forward.SrcPort}
	}
	from, ok := netip.AddrFromSlice(asked.SrcIP)
	if !ok || asked.DstPort != d.ProxyPort || answers.SrcPort < d.FirstPort || answers.SrcPort > d.LastPort {
		return false
	}
	from = from.Unmap()
	if !d.bound[from] {
		return true
	}
	if d.alive == nil {
		d.alive, d.err = liveConnections()
	}
	return d.err == nil && !d.alive[connection{netip.AddrPortFrom(from, asked.SrcPort), answers.SrcPort}]
}

// liveConnections returns all connections that have a socket, including those that wait or end.
func liveConnections() (map[connection]bool, error) {
	sockets, err := sockdiag.IPv4()
	alive := make(map[connection]bool, len(sockets))
	for _, s := range sockets {
		alive[connection{s.Remote, s.Local.Port()}] = true
	}
	return alive, err
}
