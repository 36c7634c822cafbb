package nft

import "vifproxy/firewall"

// These say at which gateway an AppVM finds its proxy that is shown another one than it has.
var (
	shownMap = &set{table: ownTable, name: "shown", key: keys(ifname, ipv4Addr, ipv4Addr), to: keys(ipv4Addr, inetService), elements: func(s firewall.State) (all []element) {
		for _, b := range s.Bindings {
			if b.Shown.IsValid() {
				all = append(all, element{tuple(ifnameBytes(b.Vif), addrBytes(b.Addr), addrBytes(b.Shown)), tuple(addrBytes(b.To.Addr()), portBytes(s.PortOf(b)))})
			}
		}
		return all
	}}
	maskedSet = &set{table: ownTable, name: "masked", key: keys(ifname, ipv4Addr), elements: func(s firewall.State) (all []element) {
		for _, b := range s.Bindings {
			if b.Shown.IsValid() {
				all = append(all, element{key: tuple(ifnameBytes(b.Vif), addrBytes(b.Addr))})
			}
		}
		return all
	}}
	// handedSet has the AppVMs that connect to their own gateway, with its address. It decides nothing that the rules do not decide without
	// it, and saves nearly all packets the question to the routing tables whether an address is local.
	handedSet = &set{table: ownTable, name: "handed", board: true, key: keys(ifname, ipv4Addr, ipv4Addr), elements: func(s firewall.State) (all []element) {
		for _, b := range s.Bindings {
			if !b.Shown.IsValid() && !b.Local() {
				all = append(all, element{key: tuple(ifnameBytes(b.Vif), addrBytes(b.Addr), addrBytes(b.To.Addr()))})
			}
		}
		return all
	}}
)
