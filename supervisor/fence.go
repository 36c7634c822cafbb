package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/internal/upstreams"
)

// fence returns what the firewall has to hold in addition to bindings.
func (l *loop) fence(exits []policy.Allowance, now time.Time) firewall.Fence {
	f := firewall.Fence{
		Resolvers: l.inputs.Resolvers.Open(now), Openings: policy.Openings(l.Egress), Proxies: make([]firewall.Proxy, 0, len(exits)),
	}
	f.Leave, f.Barred = l.leave()
	named := make(map[string]bool)
	for _, e := range exits {
		f.Proxies = append(f.Proxies, e.Proxy(l.Users.UID(e.Addr)))
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
	for _, name := range l.upstreams.Forget(named) {
		delete(l.troubles, "upstream "+name)
	}
	l.askForUpstreams(now)
	return f
}

// askers returns who may ask for names: the proxies of AppVMs that have one or get one, and trials.
func (l *loop) askers(exits []policy.Allowance) (all []firewall.Asker) {
	vms := slices.Grow(l.trials.Addrs(), len(exits)+len(l.vms))
	for _, e := range exits {
		vms = append(vms, e.Addr)
	}
	for addr, vm := range l.vms {
		if len(vm.processes) > 0 {
			vms = append(vms, addr)
		}
	}
	slices.SortFunc(vms, netip.Addr.Compare)
	vms = slices.Compact(vms)
	all = make([]firewall.Asker, 0, len(vms))
	for _, addr := range vms {
		uid := l.Users.UID(addr)
		if at := l.Names.Asker(uid); at.IsValid() {
			all = append(all, firewall.Asker{UID: uid, At: at})
		}
	}
	return all
}

// addresses returns those of a host that are known; its own, if the host is an address.
func (l *loop) addresses(host string, now time.Time) []netip.Addr {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap().WithZone("")}
	}
	return l.upstreams.Addresses(host, now)
}

// askForUpstreams asks for the addresses of Upstreams that are due.
func (l *loop) askForUpstreams(now time.Time) {
	for _, name := range l.upstreams.Due(now) {
		beside(l, upstreams.Ask(l.life, l.Names.LookUp, name), func(l *loop, a upstreams.Answer) { l.heardUpstream(name, a) })
	}
}

// heardUpstream takes in the answer to the question for an Upstream's addresses. Most answers are the old ones, and need no plan.
func (l *loop) heardUpstream(name string, a upstreams.Answer) {
	if !l.upstreams.Knows(name) {
		return // it has left the template
	}
	now, trouble := time.Now(), "upstream "+name
	if _, ill := l.troubles[trouble]; ill != (a.Err != nil) {
		l.changed = true // for systemd to be told
	}
	if retry := l.troubles.Note(l.Events, now, trouble, a.Err); a.Err != nil {
		l.upstreams.Failed(name, retry)
	} else if l.upstreams.Heard(name, a.Addrs, now, l.Heartbeat) {
		l.changed = true
	}
}
