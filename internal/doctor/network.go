package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/control"
)

// farAway stands for distant hosts. No packet is sent to them. One is in each half of IPv4, because a VPN may add two routes, one for
// each half, to the default route of the uplink.
var farAway = []netip.Addr{netip.MustParseAddr("9.0.0.1"), netip.MustParseAddr("198.51.100.1")}

// network looks at the ways by which proxies leave.
func (d *doctor) network() {
	d.egressInterfaces()
	ways := d.ways()
	d.barredWays(ways)
	d.tunnels(ways)
	d.otherRoutes()
}

// egressInterfaces looks at the interfaces by which alone proxies may leave.
func (d *doctor) egressInterfaces() {
	const remedy = "bring it up, as by starting the VPN; or change --egress-interface and restart vifproxyd"
	var absent, down []string
	for _, name := range d.setup.Leave {
		switch link, err := netlink.LinkByName(name); {
		case errors.As(err, &netlink.LinkNotFoundError{}):
			absent = append(absent, name)
		case err == nil && !isUp(link):
			down = append(down, name)
		}
	}
	d.reportEach("leave", Wrong, remedy, "there is no interface %s, by which proxies are to leave (--egress-interface)",
		"%d of the interfaces by which proxies are to leave (--egress-interface) are not there: %s", absent)
	d.reportEach("leave", Wrong, remedy, "%s is down, and proxies are to leave by it (--egress-interface)",
		"%d of the interfaces by which proxies are to leave (--egress-interface) are down: %s", down)
}

// isUp reports whether an interface is up. Tunnels have no carrier to speak of: their state is "unknown".
func isUp(link netlink.Link) bool {
	a := link.Attrs()
	return a.RawFlags&unix.IFF_UP != 0 && a.OperState != netlink.OperDown && a.OperState != netlink.OperLowerLayerDown
}

// ways returns the links by which what proxies send leaves this VM. It reports if there are none, or if one is down.
func (d *doctor) ways() (links []netlink.Link) {
	const check = "routes"
	var missing []string
	for _, to := range farAway {
		link, _, err := wayTo(to)
		switch {
		case err != nil:
			missing = append(missing, err.Error())
		case !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == link.Attrs().Index }):
			links = append(links, link)
		}
	}
	const remedy = "see `ip route`: connect this VM to a netvm (in dom0: qvm-prefs NAME netvm NETVM), or bring up what brings the route, as a VPN"
	switch {
	case len(links) == 0:
		d.report(check, Wrong, remedy, "no route leads to the internet: %s", missing[0])
	case len(missing) > 0:
		d.report(check, Wrong, remedy, "no route leads to a part of the internet: %s", missing[0])
	}
	var down []string
	for _, link := range links {
		if !isUp(link) {
			down = append(down, link.Attrs().Name)
		}
	}
	d.reportEach(check, Wrong, "bring it up: `ip link set dev NAME up`; in Qubes, see whether the netvm runs",
		"the route to the internet leads to %s, which is down", "%d interfaces to which routes lead are down: %s", down)
	return links
}

// wayTo returns the link by which packets to an address leave, and the address that they leave from.
func wayTo(to netip.Addr) (link netlink.Link, from netip.Addr, err error) {
	routes, err := netlink.RouteGet(to.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return nil, from, errors.New("there is no default route")
	case err != nil: // of types unreachable, blackhole and prohibit: EHOSTUNREACH, EINVAL, EACCES
		return nil, from, fmt.Errorf("a route refuses it (%w)", err)
	case len(routes) == 0:
		return nil, from, errors.New("there is no default route")
	}
	from, _ = netip.AddrFromSlice(routes[0].Src)
	link, err = netlink.LinkByIndex(routes[0].LinkIndex)
	return link, from.Unmap(), err
}

// otherRoutes reports AppVMs for whom rules of routing (ip-rule(8)) choose other routes than for what their proxies send. The fence follows
// the chains of hook forward, and not such rules.
func (d *doctor) otherRoutes() {
	if len(d.setup.Leave) > 0 {
		return // by which proxies leave, whatever the routes
	}
	var refused, elsewhere []string
	for _, vm := range d.links {
		name, listed := d.listed(vm)
		if !listed || !forwards(vm.Vifs[0]) {
			continue
		}
		for _, to := range farAway {
			ours, _, err := wayTo(to)
			if err != nil || slices.ContainsFunc(d.barred(), func(b control.Barred) bool { return b.Interface == ours.Attrs().Name }) {
				continue // nothing leaves, or this was reported
			}
			routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Iif: vm.Vifs[0], SrcAddr: vm.Addr.AsSlice()})
			if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) { // unreachable, blackhole, prohibit
				refused = append(refused, fmt.Sprintf("%s (proxy: %s)", name, ours.Attrs().Name))
				break
			}
			if err != nil || len(routes) == 0 || routes[0].LinkIndex == ours.Attrs().Index {
				continue
			}
			if theirs, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
				elsewhere = append(elsewhere, fmt.Sprintf("%s (%s, proxy: %s)", name, theirs.Attrs().Name, ours.Attrs().Name))
				break
			}
		}
	}
	const remedy = "none if that is meant; else add such a rule for what this VM sends (see `ip rule`), or name the interface: vifproxyd --egress-interface"
	d.reportEach("routes", Note, remedy, "what an AppVM sends leaves by another interface than what its proxy sends: %s",
		"what %d AppVMs send leaves by other interfaces than what their proxies send: %s", elsewhere)
	d.reportEach("routes", Note, remedy, "routes refuse what an AppVM sends, and let pass what its proxy sends: %s",
		"routes refuse what %d AppVMs send, and let pass what their proxies send: %s", refused)
}

// forwards reports whether what comes in by an interface is forwarded. If not, the kernel has no route for it.
func forwards(name string) bool {
	text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/forwarding")
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// barredWays reports interfaces by which proxies may not leave. If routes lead there, that is wrong; otherwise it may be meant.
func (d *doctor) barredWays(ways []netlink.Link) {
	const check = "leave"
	taken := func(name string) bool {
		return slices.ContainsFunc(ways, func(l netlink.Link) bool { return l.Attrs().Name == name })
	}
	var idle []string
	for _, b := range d.barred() {
		if taken(b.Interface) {
			d.report(check, Wrong, "start the VPN whose kill switch that is, so that routes lead to its tunnel; or, if proxies may pass "+
				"by it, vifproxyd --egress-interface="+b.Interface,
				"routes lead to %s, by which proxies may not leave: what AppVMs send there is dropped by %s", b.Interface, b.Rule)
			continue
		}
		idle = append(idle, fmt.Sprintf("%s, where what AppVMs send is dropped by %s", b.Interface, b.Rule))
	}
	d.reportEach(check, Note, "none if that is meant, as by the kill switch of a VPN; else vifproxyd --egress-interface",
		"proxies may not leave by %s", "proxies may not leave by %d interfaces: %s", idle)
	for _, way := range ways {
		if name := way.Attrs().Name; len(d.setup.Leave) > 0 && !slices.Contains(d.setup.Leave, name) {
			d.report(check, Wrong, "bring up "+strings.Join(d.setup.Leave, ", ")+", so that routes lead there; or change --egress-interface",
				"routes lead to %s, and proxies may leave by %s only (--egress-interface)", name, strings.Join(d.setup.Leave, ", "))
		}
	}
}

// barred returns the interfaces by which proxies may not leave.
func (d *doctor) barred() []control.Barred {
	if d.status == nil {
		return nil
	}
	return d.status.Barred
}

// tunnelKinds are the kinds of links that VPNs make.
var tunnelKinds = []string{"wireguard", "tuntap", "tun", "ipip", "gre", "sit", "xfrm", "vti", "ppp", "ip6tnl"}

// tunnels reports the interfaces by which proxies leave, and tunnels that they do not use.
func (d *doctor) tunnels(ways []netlink.Link) {
	const check = "routes"
	all, err := netlink.LinkList()
	if err != nil {
		d.report(check, Wrong, "", "cannot read the links of this VM: %v", err)
		return
	}
	var by, beside []string
	for _, link := range all {
		name := link.Attrs().Name
		isWay := slices.ContainsFunc(ways, func(l netlink.Link) bool { return l.Attrs().Name == name })
		tunnel := slices.Contains(tunnelKinds, link.Type())
		switch {
		case isWay && tunnel:
			by = append(by, fmt.Sprintf("%s (a tunnel, %s)", name, link.Type()))
		case isWay:
			by = append(by, name)
		case tunnel && !slices.Contains(fallbackTunnels, name):
			beside = append(beside, name)
		}
	}
	if len(by) == 0 {
		return
	}
	d.report(check, OK, "", "what proxies send leaves by %s", strings.Join(by, ", "))
	closed := len(d.setup.Leave) > 0 || len(d.barred()) > 0
	if closed {
		return // proxies keep to it, or this was reported
	}
	d.reportEach(check, Note, "none if that is meant; if all is to pass by the tunnel, a kill switch makes proxies keep to it: see the guide, 5",
		"there is a tunnel, %s, and what proxies send leaves beside it, by "+strings.Join(by, ", "),
		"there are %d tunnels, and what proxies send leaves beside them, by "+strings.Join(by, ", ")+": %s", beside)
}

// fallbackTunnels are made by the kernel with its modules (net.core.fb_tunnels_only_for_init_net), and lead nowhere.
var fallbackTunnels = []string{"tunl0", "gre0", "sit0", "ip6tnl0", "ip6_vti0", "ip_vti0", "ip6gre0"}
