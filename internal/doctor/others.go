package doctor

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/firewall/forward"
	"vifproxy/netwatch"
)

// others reads the chains of other programs for rules that stop proxies, and for rules that stop AppVMs on the way to theirs. It
// reports the former unless a trial has shown the opposite. The latter cannot be tried, because only an AppVM can send such a packet.
func (d *doctor) others() {
	const check = "others"
	found, err := forward.ReadObstacles()
	if err != nil {
		d.report(check, Wrong, "", "%v", err)
		return
	}
	before := len(d.findings)
	if !d.leaves {
		d.outward("what proxies send", d.stuck, found.Leaving(d.outgoing(unix.IPPROTO_TCP, 443, farAway[1])))
	}
	for _, server := range d.stopped {
		d.outward("questions of proxies to resolver "+server.String(), true, found.Leaving(d.outgoing(unix.IPPROTO_UDP, 53, server)))
	}
	d.inward(found)
	if len(d.findings) == before {
		d.report(check, OK, "", "no chain of another program is seen to be in the way")
	}
}

const giveWay = "change that rule, or the program that it is of; `nft list ruleset` shows it in its place"

// outgoing returns a packet of a proxy.
func (d *doctor) outgoing(protocol byte, port uint16, to netip.Addr) forward.Packet {
	p := forward.Packet{To: to, Protocol: protocol, Port: port, UID: uint32(d.proxyUID())}
	if port == 53 { // proxies ask vifproxy-names, and that asks the name servers
		p.UID = uint32(d.resolverUID())
	}
	if way, from, err := wayTo(to); err == nil {
		p.Out, p.From = way.Attrs().Name, from
	}
	return p
}

// outward reports rules that drop, or may drop, what leaves. stuck says that it certainly does not leave; then one of the rules drops it.
func (d *doctor) outward(what string, stuck bool, all []forward.Obstacle) {
	var certain, perhaps []string
	for _, o := range all {
		if o.Certain || stuck && len(all) == 1 { // nothing else can be it
			certain = append(certain, o.Rule)
		} else {
			perhaps = append(perhaps, o.Rule)
		}
	}
	level := Note
	if stuck {
		level = Wrong
	}
	d.reportEach("others", Wrong, giveWay, what+": dropped by %s", what+": dropped by %d chains: %s", certain)
	if len(certain) == 0 {
		d.reportEach("others", level, giveWay, what+": perhaps dropped by %s", what+": perhaps dropped by %d chains: %s", perhaps)
	}
	if stuck && len(all) == 0 {
		d.report("others", Wrong, "look at `iptables-legacy -S OUTPUT`, at `tc filter`, and at programs for packets (BPF)",
			"%s: dropped, and by no rule of nftables that is understood here", what)
	}
}

// inward reports rules that drop, or may drop, what AppVMs send to their proxies: a finding for each rule.
func (d *doctor) inward(found forward.Obstacles) {
	if d.status == nil {
		return
	}
	var order []forward.Obstacle
	who := map[forward.Obstacle][]string{}
	for _, vm := range d.status.VMs {
		link, ok := d.linkOf(vm)
		if !ok {
			continue
		}
		p := forward.Packet{In: link.Vifs[0], From: link.Addr, To: link.Gateway, Protocol: unix.IPPROTO_TCP, Port: uint16(d.setup.ProxyPort)}
		port := uint16(vm.Port)
		if p.Untracked = d.setup.Switchboard.Used; p.Untracked {
			port = p.Port
		}
		for _, o := range found.Arriving(p, port) {
			if who[o] == nil {
				order = append(order, o)
			}
			who[o] = append(who[o], vm.Name)
		}
	}
	for _, o := range order {
		level, drops := Note, "perhaps drops"
		if o.Certain {
			level, drops = Wrong, "drops"
		}
		d.reportEach("others", level, giveWay, fmt.Sprintf("%s, %s what %%s sends to its proxy", o.Rule, drops),
			fmt.Sprintf("%s, %s what %%d AppVMs send to their proxies: %%s", o.Rule, drops), who[o])
	}
}

// linkOf returns the connection of an AppVM whose proxy runs.
func (d *doctor) linkOf(vm control.VM) (netwatch.AppVM, bool) {
	i := slices.IndexFunc(d.links, func(link netwatch.AppVM) bool { return link.Addr.String() == vm.IP })
	if i < 0 || vm.State != control.Running || vm.Port == 0 {
		return netwatch.AppVM{}, false
	}
	return d.links[i], true
}
