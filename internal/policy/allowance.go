package policy

import (
	"net/netip"
	"slices"

	"vifproxy/firewall"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// An Allowance is what the fence is to let the proxies of one AppVM do in addition to the usual.
type Allowance struct {
	Addr      netip.Addr
	Openings  []firewall.Opening
	Ports     []uint16 // that the template opens, for all
	Own       []uint16 // that its list opens, for it alone
	Upstreams []tinyproxy.Upstream

	Listed     []netip.Addr // public addresses that its list names
	AnyAddress bool         // its list names more than can be listed
}

// Proxy returns what the fence is to have for the proxies of the AppVM, which have a uid.
func (a Allowance) Proxy(uid uint32) firewall.Proxy {
	return firewall.Proxy{UID: uid, Openings: a.Openings, Ports: a.Own, Listed: a.Listed, AnyAddress: a.AnyAddress}
}

// Allowance returns what the policy may do.
func (p *Policy) Allowance() Allowance {
	return Allowance{Addr: p.Addr, Openings: Openings(p.Egress), Ports: p.Config.ConnectPorts, Own: p.portNumbers(),
		Upstreams: p.Config.Upstreams(), Listed: p.publicListed(), AnyAddress: p.AnyAddress != ""}
}

// publicListed returns the listed addresses that the fence opens without a line that opens them.
func (p *Policy) publicListed() []netip.Addr {
	return slices.DeleteFunc(slices.Clone(p.Listed), func(addr netip.Addr) bool { return !firewall.Public(addr) })
}

// AllowanceOf returns what a policy may do. As long as another one serves, both must permit it: a process has no openings but its
// own rules', and what was taken away is closed at once.
func AllowanceOf(target, serving *Policy) Allowance {
	e := target.Allowance()
	if serving == nil || serving.Key() == target.Key() {
		return e
	}
	e.Openings = common(e.Openings, Openings(serving.Egress))
	e.Ports = inBoth(e.Ports, serving.Config.ConnectPorts)
	e.Own = inBoth(e.Own, serving.portNumbers())
	e.Upstreams = inBoth(e.Upstreams, serving.Config.Upstreams())
	e.AnyAddress = e.AnyAddress && serving.AnyAddress != ""
	switch {
	case serving.AnyAddress == "" && target.AnyAddress != "":
		e.Listed = serving.publicListed()
	case serving.AnyAddress == "":
		e.Listed = inBoth(e.Listed, serving.Listed)
	}
	return e
}

// common is what both lists open: of two networks with a common part, the smaller. It is as wide as a network where one of
// the two is.
func common(a, b []firewall.Opening) (both []firewall.Opening) {
	for _, x := range a {
		for _, y := range b {
			if x.Port == y.Port && x.To.Overlaps(y.To) {
				to := x.To
				if y.To.Bits() > to.Bits() {
					to = y.To
				}
				both = append(both, firewall.Opening{To: to, Port: x.Port, Literal: x.Literal && y.Literal})
			}
		}
	}
	return both
}

func inBoth[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}

// Openings returns what lines open. A single address leads where it says, as a person wrote it; a network never leads to this VM or
// to AppVMs.
func Openings(egress []rules.Egress) (all []firewall.Opening) {
	for _, e := range egress {
		all = append(all, firewall.Opening{To: e.To, Port: e.Port, Literal: e.Single()})
	}
	return all
}
