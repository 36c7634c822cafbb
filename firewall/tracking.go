package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"vifproxy/internal/sockdiag"
)

// Connection tracking keeps the entry of a connection for days (nf_conntrack_tcp_timeout_established) if nobody tells it
// that the connection is over. A proxy that ends tells its clients, but one whose vif is gone cannot be told. As long as
// there is an entry, the AppVM's next connection from the same port is translated to the port of the proxy that was, where
// the guard resets it.

// Forget takes out of connection tracking what was connected from these addresses to a proxy that listened at to, and has
// ended. It costs the same however many connections the firewall VM forwards.
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

// ForgetAll takes out what leads nowhere, of proxies of which nothing else is known: connections of AppVMs that have none
// of these bindings, and those that no socket here belongs to any more. A socket without a process may still be delivering
// the end of a page. It reads the whole table, and returns how many connections there were. A connection that is bound
// meanwhile is no worse for it: it is tracked again, with the same translation, at its next packet.
func (c Config) ForgetAll(bindings []Binding) (forgotten int, err error) {
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

// deadConnections matches them. It looks at the sockets when all entries have been read, as the library calls it
// for those: else a connection made meanwhile would seem dead.
type deadConnections struct {
	Config
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
	if flow.Reverse.DstPort == d.ProxyPort { // tracked since an answer, see chain postrouting in skeleton.go
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

// liveConnections are all that have a socket, waiting and ending ones included.
func liveConnections() (map[connection]bool, error) {
	sockets, err := sockdiag.IPv4()
	alive := make(map[connection]bool, len(sockets))
	for _, s := range sockets {
		alive[connection{s.Remote, s.Local.Port()}] = true
	}
	return alive, err
}
