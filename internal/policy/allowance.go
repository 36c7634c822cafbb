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
}

// AllowanceOf returns what a policy may do. As long as another one serves, both must permit it: a process has no openings but its
// own rules', and what was taken away is closed at once.
func AllowanceOf(target, serving *Policy) Allowance {
	e := Allowance{target.Addr, Openings(target.Egress), target.Config.ConnectPorts, target.PortNumbers(), target.Config.Upstreams()}
	if serving == nil || serving.Key() == target.Key() {
		return e
	}
	e.Openings = common(e.Openings, Openings(serving.Egress))
	e.Ports = inBoth(e.Ports, serving.Config.ConnectPorts)
	e.Own = inBoth(e.Own, serving.PortNumbers())
	e.Upstreams = inBoth(e.Upstreams, serving.Config.Upstreams())
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
