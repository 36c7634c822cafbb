package firewall

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Forget takes connections out of connection tracking that lead nowhere: of AppVMs that have none of these bindings,
// and those that no socket here belongs to any more. A proxy that ends tells its clients, but one whose vif is gone
// cannot be told, and the kernel keeps the entry of its connection for days (nf_conntrack_tcp_timeout_established).
// As long as it does, the AppVM's next connection from the same port is translated to the port of the proxy that
// was, where the guard resets it. A socket without a process may still be delivering the end of a page. Forget
// returns how many connections there were. A connection that is bound meanwhile is no worse for it: it is tracked again, with
// the same translation, at its next packet.
func (c Config) Forget(bindings []Binding) (forgotten int, err error) {
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
	asked, answers := flow.Forward, flow.Reverse
	from, ok := netip.AddrFromSlice(asked.SrcIP)
	if !ok || asked.Protocol != unix.IPPROTO_TCP || asked.DstPort != d.ProxyPort ||
		answers.SrcPort < d.FirstPort || answers.SrcPort > d.LastPort {
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
	sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
	alive := make(map[connection]bool, len(sockets))
	for _, s := range sockets {
		if remote, ok := netip.AddrFromSlice(s.ID.Destination); ok {
			alive[connection{netip.AddrPortFrom(remote.Unmap(), s.ID.DestinationPort), s.ID.SourcePort}] = true
		}
	}
	return alive, err
}
