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

// Verdict is what the fence makes of a connection.
type Verdict struct {
	Passes bool
	Hole   *Hole  // by which it passes, if by one
	Own    bool   // the hole is this proxy's and no other's
	Why    string // it does not pass, or passes without a hole
}

// Judge says what becomes of a connection of a proxy, in the order of the rules, which it does not read: they are made
// from the same Fence. Like them it asks the kernel what kind of address that is, and to which interface it leads.
func (f Fence) Judge(uid uint32, to netip.AddrPort) (Verdict, error) {
	addr, port := to.Addr().Unmap(), to.Port()
	ports := append([]uint16{80, 443}, f.Ports...)
	through := func(holes []Hole) *Hole {
		i := slices.IndexFunc(holes, func(h Hole) bool {
			return h.To.Contains(addr) && (h.Port == port || h.Port == 0 && slices.Contains(ports, port))
		})
		if i < 0 {
			return nil
		}
		return &holes[i]
	}
	if port == 53 && slices.Contains(f.Resolvers, addr) {
		return Verdict{Passes: true, Why: "it is a resolver"}, nil
	}
	if hole := through(f.Holes); hole != nil {
		return Verdict{Passes: true, Hole: hole}, nil
	}
	for _, p := range f.Proxies {
		if hole := through(p.Holes); p.UID == uid && hole != nil {
			return Verdict{Passes: true, Hole: hole, Own: true}, nil
		}
	}
	for _, net := range forbidden {
		if net.Contains(addr) {
			return Verdict{Why: "it is in " + net.String()}, nil
		}
	}
	unicast, vif, err := route(addr)
	switch {
	case err != nil:
		return Verdict{}, err
	case !unicast:
		return Verdict{Why: "it is the firewall VM's own"}, nil
	case vif != "":
		return Verdict{Why: "it is behind " + vif}, nil
	case !slices.Contains(ports, port):
		return Verdict{Why: fmt.Sprintf("port %d is not open", port)}, nil
	}
	return Verdict{Passes: true, Why: fmt.Sprintf("port %d is open everywhere", port)}, nil
}

// route asks the kernel where an address leads: to another machine, and if so, through which vif, if through one. An
// address that leads nowhere is another machine's.
func route(addr netip.Addr) (unicast bool, vif string, err error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
		return true, "", nil
	}
	if err != nil || len(routes) == 0 {
		return false, "", fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	if routes[0].Type != unix.RTN_UNICAST {
		return false, "", nil
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return false, "", fmt.Errorf("ask for the route to %s: %w", addr, err)
	}
	if name := link.Attrs().Name; strings.HasPrefix(name, "vif") {
		vif = name
	}
	return true, vif, nil
}
