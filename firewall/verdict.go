package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A Verdict says what the fence does with a connection.
type Verdict struct {
	Passes  bool
	Opening *Opening // by which it passes, if by one
	Own     bool     // what opens it, opening or port, is this proxy's and no other's
	Why     string   // it does not pass, or passes without an opening
}

// Judge returns what the fence does with a connection of a proxy to an address that it was told, or that its list names: a public address
// is taken to be pinned, because it is as soon as the proxy has asked for its name. It follows the order of the rules without reading them: they
// are made from the same Fence. Like them, it asks the kernel for the kind of the address, and the interface that it leads to.
func (f Fence) Judge(uid uint32, to netip.AddrPort) (Verdict, error) {
	addr, port := to.Addr().Unmap(), to.Port()
	ports := append([]uint16{80, 443}, f.Ports...)
	through := func(openings []Opening, literal bool) *Opening {
		i := slices.IndexFunc(openings, func(h Opening) bool {
			return h.Literal == literal && h.To.Contains(addr) &&
				(h.Port == port || h.Port == 0 && slices.Contains(ports, port))
		})
		if i < 0 {
			return nil
		}
		return &openings[i]
	}
	by := func(literal bool) (v Verdict) {
		if opening := through(f.Openings, literal); opening != nil {
			return Verdict{Passes: true, Opening: opening}
		}
		for _, p := range f.Proxies {
			if opening := through(p.Openings, literal); p.UID == uid && opening != nil {
				return Verdict{Passes: true, Opening: opening, Own: true}
			}
		}
		return v
	}
	leads, err := route(addr)
	if err != nil {
		return Verdict{}, err
	}
	switch {
	case leads.by == "lo": // does not leave
	case slices.Contains(f.Barred, leads.by):
		return Verdict{Why: fmt.Sprintf("it is behind %s, where what AppVMs send is not forwarded", leads.by)}, nil
	case len(f.Leave) > 0 && leads.by != "" && !slices.Contains(f.Leave, leads.by):
		return Verdict{Why: fmt.Sprintf("it is behind %s, and proxies may leave by %s only",
			leads.by, strings.Join(f.Leave, ", "))}, nil
	}
	if v := by(true); v.Passes {
		return v, nil
	}
	if net := within(own, addr); net.IsValid() {
		return Verdict{Why: "it is in " + net.String()}, nil
	}
	if !leads.unicast {
		return Verdict{Why: "it is the firewall VM's own"}, nil
	}
	if strings.HasPrefix(leads.by, "vif") {
		return Verdict{Why: "it is behind " + leads.by}, nil
	}
	if v := by(false); v.Passes {
		return v, nil
	}
	if net := within(forbidden, addr); net.IsValid() {
		return Verdict{Why: "it is in " + net.String()}, nil
	}
	owned := slices.ContainsFunc(f.Proxies, func(p Proxy) bool { return p.UID == uid && slices.Contains(p.Ports, port) })
	switch {
	case slices.Contains(ports, port):
		return Verdict{Passes: true, Why: fmt.Sprintf("port %d is open everywhere", port)}, nil
	case owned:
		return Verdict{Passes: true, Own: true, Why: fmt.Sprintf("port %d is open to this proxy", port)}, nil
	}
	return Verdict{Why: fmt.Sprintf("port %d is not open", port)}, nil
}

// within returns the first network that the address is in.
func within(nets []netip.Prefix, addr netip.Addr) netip.Prefix {
	if i := slices.IndexFunc(nets, func(net netip.Prefix) bool { return net.Contains(addr) }); i >= 0 {
		return nets[i]
	}
	return netip.Prefix{}
}

// path is where an address leads: to another machine or not, and by which interface; "" if by none.
type path struct {
	unicast bool
	by      string
}

// route asks the kernel where an address leads. One that leads nowhere is another machine's.
func route(addr netip.Addr) (path, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return path{unicast: true}, nil
	}
	if err != nil || len(routes) == 0 {
		return path{}, fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return path{}, fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	return path{routes[0].Type == unix.RTN_UNICAST, link.Attrs().Name}, nil
}
