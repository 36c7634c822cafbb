package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// Exit is what the fence is to let the proxies of one AppVM do besides the usual.
type Exit struct {
	Addr      netip.Addr
	Holes     []firewall.Hole
	Ports     []uint16 // that the template opens, for all
	Own       []uint16 // that its list opens, for it alone
	Upstreams []tinyproxy.Upstream
}

// exit is what the target may do. As long as another policy serves, both must permit it: a process has no holes
// but its own rules', and what was taken away is closed at once.
func exit(target *Policy, serving *Generation) Exit {
	e := Exit{target.Addr, holes(target.Egress), target.Config.Connect, target.PortNumbers(), target.Config.Upstreams()}
	if serving == nil || serving.Policy.Key() == target.Key() {
		return e
	}
	old := serving.Policy
	e.Holes = common(e.Holes, holes(old.Egress))
	e.Ports = inBoth(e.Ports, old.Config.Connect)
	e.Own = inBoth(e.Own, old.PortNumbers())
	e.Upstreams = inBoth(e.Upstreams, old.Config.Upstreams())
	return e
}

// common is what both lists open: of two networks with a common part, the smaller. It is as wide as a network where one of
// the two is.
func common(a, b []firewall.Hole) (both []firewall.Hole) {
	for _, x := range a {
		for _, y := range b {
			if x.Port == y.Port && x.To.Overlaps(y.To) {
				to := x.To
				if y.To.Bits() > to.Bits() {
					to = y.To
				}
				both = append(both, firewall.Hole{To: to, Port: x.Port, Literal: x.Literal && y.Literal})
			}
		}
	}
	return both
}

func inBoth[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}

// fence puts together what the firewall is to hold besides bindings.
func (l *loop) fence(exits []Exit, now time.Time) firewall.Fence {
	f := firewall.Fence{
		Resolvers: l.inputs.Resolvers, Holes: holes(l.Egress), Proxies: make([]firewall.Proxy, 0, len(exits)),
	}
	f.Leave, f.Barred = l.leave()
	named := make(map[string]bool)
	for _, e := range exits {
		f.Proxies = append(f.Proxies, firewall.Proxy{UID: l.Users.UID(e.Addr), Holes: e.Holes, Ports: e.Own})
		f.Ports = append(f.Ports, e.Ports...)
		for _, up := range e.Upstreams {
			named[up.Host] = true
			_, unnamed := netip.ParseAddr(up.Host)
			for _, addr := range l.addresses(up.Host, now) {
				f.Holes = append(f.Holes, firewall.Hole{
					To: netip.PrefixFrom(addr, addr.BitLen()), Port: up.Port, Literal: unnamed == nil,
				})
			}
		}
	}
	for name := range l.hosts {
		if !named[name] {
			delete(l.hosts, name)
			delete(l.troubles, "upstream "+name)
		}
	}
	return f
}

// holes are what lines open. A single address leads where it says, as a person wrote it; a network never leads to this VM or
// to AppVMs.
func holes(egress []rules.Egress) (all []firewall.Hole) {
	for _, e := range egress {
		all = append(all, firewall.Hole{To: e.To, Port: e.Port, Literal: e.Single()})
	}
	return all
}
