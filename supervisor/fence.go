package supervisor

import (
	"net/netip"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/policy"
)

// fence puts together what the firewall is to hold besides bindings.
func (l *loop) fence(exits []policy.Allowance, now time.Time) firewall.Fence {
	f := firewall.Fence{
		Resolvers: l.inputs.Resolvers, Openings: policy.Openings(l.Egress), Proxies: make([]firewall.Proxy, 0, len(exits)),
	}
	f.Leave, f.Barred = l.leave()
	named := make(map[string]bool)
	for _, e := range exits {
		f.Proxies = append(f.Proxies, firewall.Proxy{UID: l.Users.UID(e.Addr), Openings: e.Openings, Ports: e.Own})
		f.Ports = append(f.Ports, e.Ports...)
		for _, up := range e.Upstreams {
			named[up.Host] = true
			_, unnamed := netip.ParseAddr(up.Host)
			for _, addr := range l.addresses(up.Host, now) {
				f.Openings = append(f.Openings, firewall.Opening{
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
