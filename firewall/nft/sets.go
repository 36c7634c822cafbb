package nft

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/internal/netlink"
)

// The tables that our sets are in, as nft writes them: with the family before the name if it is not ip.
const (
	ownTable   = "vifproxy"
	fenceTable = "inet vifproxy"
	qubesTable = "qubes"
)

// A set is one of our sets or maps.
type set struct {
	table, name string
	key, to     []datatype // what elements are made of; to is where they lead, in a map
	interval    bool       // its elements are intervals
	fleeting    bool       // its elements go by themselves after a time
	nat         bool       // there is no need of it where a switchboard hands connections over
	board       bool       // there is need of it only there
	late        bool       // elements go out of it later, because a packet on its way may still need them
	dump        []byte     // the request for its elements
	typeOf      []byte     // nft's note about the expressions whose types key and to are, if they have no name

	elements func(firewall.State) []element // what a State says, in any order
}

// isFor reports whether there is need of the set.
func (s *set) isFor(c firewall.Config) bool {
	return !(s.nat && c.Switchboard || s.board && !c.Switchboard)
}

// An element is in one of our sets.
type element struct {
	key  string
	more string // where the key leads, in a map; the last key, in a set of intervals
}

// contents are the elements of one set, by their keys.
type contents map[string]string

// elementsOf returns what a State puts into the set, in order.
func (s *set) elementsOf(state firewall.State) []element {
	all := s.elements(state)
	slices.SortFunc(all, compareElements)
	return all
}

// sorted returns the elements in order.
func (c contents) sorted() []element {
	all := make([]element, 0, len(c))
	for key, more := range c {
		all = append(all, element{key, more})
	}
	slices.SortFunc(all, compareElements)
	return all
}

// holds reports whether these are the contents.
func (c contents) holds(all []element) bool {
	return len(c) == len(all) && !slices.ContainsFunc(all, func(e element) bool {
		more, there := c[e.key]
		return !there || more != e.more
	})
}

func compareElements(a, b element) int {
	return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.more, b.more))
}

func sameElement(a, b element) bool { return a == b }

// text returns an element as nft writes it.
func (s *set) text(e element) string {
	switch {
	case s.to != nil:
		return tupleText(s.key, e.key, "") + " : " + tupleText(s.to, e.more, "")
	case s.interval:
		return tupleText(s.key, e.key, e.more)
	}
	return tupleText(s.key, e.key, "")
}

// ourSets hold all that a State says, in the order in which their elements are written. All are declared in the same way. Of what
// nft notes for itself (userdata) they have only the order of bytes: nft 0.9.8 and 1.0.6 end with an assertion or worse if they list
// a ruleset with some sets as nft 1.1 declares them.
var ourSets = []*set{
	portsMap, shownMap, maskedSet, handedSet, bindingsSet, guardedSet, acceptSet, zonesMap, answerZonesMap, askersMap,
	leaveSet, anywhereSet, barredSet, barredAgainSet, openPortsSet,
	resolvers.four, resolvers.six, literals.four, literals.six, ownedLiterals.four, ownedLiterals.six,
	wideLiterals.four, wideLiterals.six, ownedPortsSet,
	openings.four, openings.six, owned.four, owned.six, wide.four, wide.six,
	askedSet, answeringSet, listedAddrs.four, listedAddrs.six, anyAddressSet,
}

var fenceSets = slices.DeleteFunc(slices.Clone(ourSets), func(s *set) bool { return s.table != fenceTable })

// These sets say which AppVM reaches which proxy.
var (
	portsMap = &set{table: ownTable, name: "ports", nat: true, key: keys(ifname, ipv4Addr), to: keys(ipv4Addr, inetService),
		elements: func(s firewall.State) (all []element) {
			for _, b := range s.Bindings {
				all = append(all, element{tuple(ifnameBytes(b.Vif), addrBytes(b.Addr)), tuple(addrBytes(b.To.Addr()), portBytes(b.To.Port()))})
			}
			return all
		}}
	bindingsSet = &set{table: ownTable, name: "bindings", key: keys(ifname, ipv4Addr, inetService), late: true, elements: bound}
	guardedSet  = &set{table: ownTable, name: "guarded", nat: true, key: keys(inetService), elements: func(s firewall.State) (all []element) {
		for _, port := range s.Guarded {
			all = append(all, element{key: tuple(portBytes(port))})
		}
		return all
	}}
	acceptSet = &set{table: qubesTable, name: "vifproxy", key: keys(ifname, ipv4Addr, inetService), late: true, elements: bound}
)

func bound(s firewall.State) (all []element) {
	for _, b := range s.Bindings {
		all = append(all, element{key: tuple(ifnameBytes(b.Vif), addrBytes(b.Addr), portBytes(s.PortOf(b)))})
	}
	return all
}

// These sets say by which interfaces proxies leave, and at which ports.
var (
	leaveSet = &set{table: fenceTable, name: "leave", key: keys(ifname), elements: func(s firewall.State) (all []element) {
		return names(s.Fence.Leave)
	}}
	anywhereSet = &set{table: fenceTable, name: "anywhere", key: keys(nfProto), elements: func(s firewall.State) (all []element) {
		if len(s.Fence.Leave) == 0 {
			all = append(all, element{key: tuple(nfProtoBytes(unix.NFPROTO_IPV4))})
			all = append(all, element{key: tuple(nfProtoBytes(unix.NFPROTO_IPV6))})
		}
		return all
	}}
	barredSet = &set{table: fenceTable, name: "barred", key: keys(ifname), elements: barredNames}
	// The second look has a set of its own, because flushing this one opens something.
	barredAgainSet = &set{table: fenceTable, name: "barred_again", key: keys(ifname), elements: barredNames}

	openPortsSet = &set{table: fenceTable, name: "ports", key: keys(inetService), elements: func(s firewall.State) (all []element) {
		for _, port := range s.Fence.Ports {
			all = append(all, element{key: tuple(portBytes(port))})
		}
		return all
	}}
	ownedPortsSet = &set{table: fenceTable, name: "owned_ports", key: keys(uid, inetService), elements: func(s firewall.State) (all []element) {
		for _, p := range s.Fence.Proxies {
			for _, port := range p.Ports {
				all = append(all, element{key: tuple(uidBytes(p.UID), portBytes(port))})
			}
		}
		return all
	}}
)

func barredNames(s firewall.State) []element { return names(s.Fence.Barred) }

func names(all []string) (elements []element) {
	for _, name := range all {
		elements = append(elements, element{key: tuple(ifnameBytes(name))})
	}
	return elements
}

// These sets say who asks the resolver.
var (
	askersMap = &set{table: ownTable, name: "askers", key: keys(uid), to: keys(ipv4Addr, inetService),
		elements: func(s firewall.State) (all []element) {
			for _, a := range s.Askers {
				all = append(all, element{tuple(uidBytes(a.UID)), tuple(addrBytes(a.At.Addr()), portBytes(a.At.Port()))})
			}
			return all
		}}
	askedSet = &set{table: fenceTable, name: "asked", key: keys(uid, ipv4Addr, inetService),
		elements: func(s firewall.State) (all []element) {
			for _, a := range s.Askers {
				all = append(all, element{key: tuple(uidBytes(a.UID), addrBytes(a.At.Addr()), portBytes(a.At.Port()))})
			}
			return all
		}}
	answeringSet = &set{table: fenceTable, name: "answering", key: keys(ipv4Addr, inetService),
		elements: func(s firewall.State) (all []element) {
			for _, a := range s.Askers {
				all = append(all, element{key: tuple(addrBytes(a.At.Addr()), portBytes(a.At.Port()))})
			}
			return all
		}}
)

// These maps say in which zone of connection tracking questions are, and the answers to them.
var (
	zonesMap = &set{table: ownTable, name: "zones", key: keys(uid), to: keys(ctZone), typeOf: zonesNote, elements: func(s firewall.State) (all []element) {
		for _, a := range s.Askers {
			all = append(all, element{tuple(uidBytes(a.UID)), tuple(zoneBytes(zoneOf(a)))})
		}
		return all
	}}
	answerZonesMap = &set{table: ownTable, name: "answer_zones", key: keys(ipv4Addr), to: keys(ctZone), typeOf: answerZonesNote, elements: func(s firewall.State) (all []element) {
		for _, a := range s.Askers {
			all = append(all, element{tuple(addrBytes(a.At.Addr())), tuple(zoneBytes(zoneOf(a)))})
		}
		return all
	}}
)

// zoneOf returns the zone of an asker. Zone 0 is everybody's, and there are 65535 more. Askers get one address after the other, so two
// have the same zone only where there have been more.
func zoneOf(a firewall.Asker) uint16 {
	addr := a.At.Addr().As4()
	return uint16((binary.BigEndian.Uint32(addr[:])&(1<<22-1))%math.MaxUint16 + 1)
}

// anyAddressSet has the proxies to which all public addresses are open.
var anyAddressSet = &set{table: fenceTable, name: "any_address", key: keys(uid), elements: func(s firewall.State) (all []element) {
	for _, p := range s.Fence.Proxies {
		if p.AnyAddress {
			all = append(all, element{key: tuple(uidBytes(p.UID))})
		}
	}
	return all
}}

// A pair is two sets of the fence, one with IPv4 addresses and one with IPv6 addresses.
type pair struct{ four, six *set }

// pairOf makes a pair. elements returns those whose address is of the family that ours reports.
func pairOf(name string, interval bool, key func(addr datatype) []datatype,
	elements func(s firewall.State, ours func(netip.Addr) bool) []element) pair {
	one := func(version string, addr datatype, ours func(netip.Addr) bool) *set {
		return &set{table: fenceTable, name: name + version, key: key(addr), interval: interval,
			elements: func(s firewall.State) []element { return elements(s, ours) }}
	}
	return pair{one("4", ipv4Addr, netip.Addr.Is4), one("6", ipv6Addr, netip.Addr.Is6)}
}

// These sets say where proxies connect to. Literals are single addresses that a person wrote; the others are networks, and addresses
// that names have.
var (
	resolvers = pairOf("resolvers", false, func(addr datatype) []datatype { return keys(addr) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			for _, addr := range s.Fence.Resolvers {
				if ours(addr) {
					all = append(all, element{key: tuple(addrBytes(addr))})
				}
			}
			return all
		})

	// of all proxies
	literals = pairOf("literals", false, func(addr datatype) []datatype { return keys(addr, inetService) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			for _, h := range shared(s, ours, true) {
				all = append(all, element{key: tuple(addrBytes(h.To.Addr()), portBytes(h.Port))})
			}
			return all
		})
	openings = pairOf("holes", true, func(addr datatype) []datatype { return keys(addr, inetService) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			for _, h := range shared(s, ours, false) {
				first, last := ends(h)
				all = append(all, element{tuple(first, portBytes(h.Port)), tuple(last, portBytes(h.Port))})
			}
			return all
		})

	// of one proxy
	ownedLiterals = pairOf("owned_literals", false, func(addr datatype) []datatype { return keys(uid, addr, inetService) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			own(s, ours, func(owner uint32, h firewall.Opening) {
				if h.Literal && h.Port != 0 {
					all = append(all, element{key: tuple(uidBytes(owner), addrBytes(h.To.Addr()), portBytes(h.Port))})
				}
			})
			return all
		})
	owned = pairOf("owned", true, func(addr datatype) []datatype { return keys(uidInInterval, addr, inetService) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			own(s, ours, func(owner uint32, h firewall.Opening) {
				if first, last := ends(h); !h.Literal && h.Port != 0 {
					all = append(all, element{tuple(uidInIntervalBytes(owner), first, portBytes(h.Port)), tuple(uidInIntervalBytes(owner), last, portBytes(h.Port))})
				}
			})
			return all
		})

	// of one proxy, at the ports that are open everywhere
	wideLiterals = pairOf("wide_literals", false, func(addr datatype) []datatype { return keys(uid, addr) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			own(s, ours, func(owner uint32, h firewall.Opening) {
				if h.Literal && h.Port == 0 {
					all = append(all, element{key: tuple(uidBytes(owner), addrBytes(h.To.Addr()))})
				}
			})
			return all
		})
	wide = pairOf("wide", true, func(addr datatype) []datatype { return keys(uidInInterval, addr) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			own(s, ours, func(owner uint32, h firewall.Opening) {
				if first, last := ends(h); !h.Literal && h.Port == 0 {
					all = append(all, element{tuple(uidInIntervalBytes(owner), first), tuple(uidInIntervalBytes(owner), last)})
				}
			})
			return all
		})
)

// Public addresses that are open to one proxy, at the ports that are open to it.
var (
	listedAddrs = pairOf("listed", false, func(addr datatype) []datatype { return keys(uid, addr) },
		func(s firewall.State, ours func(netip.Addr) bool) (all []element) {
			for _, p := range s.Fence.Proxies {
				for _, addr := range p.Listed {
					if ours(addr) {
						all = append(all, element{key: tuple(uidBytes(p.UID), addrBytes(addr))})
					}
				}
			}
			return all
		})
	// No State says what is pinned, see pins.go.
	pinned = fleeting(pairOf("pinned", false, func(addr datatype) []datatype { return keys(uid, addr) }, nil))
)

func fleeting(p pair) pair {
	p.four.fleeting, p.six.fleeting = true, true
	return p
}

// shared returns the openings of all proxies, one for each port.
func shared(s firewall.State, ours func(netip.Addr) bool, literal bool) []firewall.Opening {
	if len(s.Fence.Openings) == 0 {
		return nil
	}
	return slices.DeleteFunc(firewall.Disjoint(s.Fence.WithPorts(s.Fence.Openings)), func(h firewall.Opening) bool {
		return h.Literal != literal || !ours(h.To.Addr())
	})
}

// own calls f for the openings that each proxy has for itself.
func own(s firewall.State, ours func(netip.Addr) bool, f func(owner uint32, h firewall.Opening)) {
	for _, p := range s.Fence.Proxies {
		for _, h := range firewall.Disjoint(p.Openings) {
			if ours(h.To.Addr()) {
				f(p.UID, h)
			}
		}
	}
}

// ends returns the first and the last address of an opening.
func ends(h firewall.Opening) (first, last []byte) {
	return addrBytes(h.To.Addr()), addrBytes(lastOf(h.To))
}

// refusedSet is filled by the kernel.
var refusedSet = &set{table: fenceTable, name: "refused", key: keys(uid)}

func init() {
	for _, s := range append(slices.Clone(ourSets), refusedSet, pinned.four, pinned.six) {
		s.dump = list(unix.NFT_MSG_GETSETELEM, family(s.table), s.attributes())
	}
}

func keys(parts ...datatype) []datatype { return parts }

// family returns the family of a table.
func family(table string) byte {
	if strings.HasPrefix(table, "inet ") {
		return unix.NFPROTO_INET
	}
	return unix.NFPROTO_IPV4
}

// bare returns a table's name without its family.
func bare(table string) string { return strings.TrimPrefix(table, "inet ") }

// attributes name the set to the kernel.
func (s *set) attributes() []byte {
	return netlink.AppendString(netlink.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, bare(s.table)), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}
