package nft

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/internal/netlink"
)

// setName says the table as nft writes it: with the family before its name if it is not ip.
type setName struct{ table, name string }

// set is a set of ours, or a map, as it is declared.
type set struct {
	setName
	key, to  []datatype // what elements are made of; to is where they lead, in a map
	interval bool       // its elements are intervals
}

// ourSets hold all that a State says, and are in the order in which their elements are written. All are declared in the
// same way, with the order of bytes alone of what nft notes for itself (userdata): nft 0.9.8 and 1.0.6 end with an assertion or
// worse when they list a ruleset with some sets as nft 1.1 declares them.
var ourSets = [...]set{
	portsMap:             {setName{"vifproxy", "ports"}, keys(ifname, ipv4Addr), keys(ipv4Addr, inetService), false},
	bindingsSet:          {setName{"vifproxy", "bindings"}, keys(ifname, ipv4Addr, inetService), nil, false},
	guardedSet:           {setName{"vifproxy", "guarded"}, keys(inetService), nil, false},
	acceptSet:            {setName{"qubes", "vifproxy"}, keys(ifname, ipv4Addr, inetService), nil, false},
	leaveSet:             {setName{"inet vifproxy", "leave"}, keys(ifname), nil, false},
	anywhereSet:          {setName{"inet vifproxy", "anywhere"}, keys(nfProto), nil, false},
	barredSet:            {setName{"inet vifproxy", "barred"}, keys(ifname), nil, false},
	barredAgainSet:       {setName{"inet vifproxy", "barred_again"}, keys(ifname), nil, false},
	openPortsSet:         {setName{"inet vifproxy", "ports"}, keys(inetService), nil, false},
	resolverSets:         {setName{"inet vifproxy", "resolvers4"}, keys(ipv4Addr), nil, false},
	resolverSets + 1:     {setName{"inet vifproxy", "resolvers6"}, keys(ipv6Addr), nil, false},
	literalSets:          {setName{"inet vifproxy", "literals4"}, keys(ipv4Addr, inetService), nil, false},
	literalSets + 1:      {setName{"inet vifproxy", "literals6"}, keys(ipv6Addr, inetService), nil, false},
	ownedLiteralSets:     {setName{"inet vifproxy", "owned_literals4"}, keys(uid, ipv4Addr, inetService), nil, false},
	ownedLiteralSets + 1: {setName{"inet vifproxy", "owned_literals6"}, keys(uid, ipv6Addr, inetService), nil, false},
	wideLiteralSets:      {setName{"inet vifproxy", "wide_literals4"}, keys(uid, ipv4Addr), nil, false},
	wideLiteralSets + 1:  {setName{"inet vifproxy", "wide_literals6"}, keys(uid, ipv6Addr), nil, false},
	ownedPortsSet:        {setName{"inet vifproxy", "owned_ports"}, keys(uid, inetService), nil, false},
	holeSets:             {setName{"inet vifproxy", "holes4"}, keys(ipv4Addr, inetService), nil, true},
	holeSets + 1:         {setName{"inet vifproxy", "holes6"}, keys(ipv6Addr, inetService), nil, true},
	ownedSets:            {setName{"inet vifproxy", "owned4"}, keys(uid, ipv4Addr, inetService), nil, true},
	ownedSets + 1:        {setName{"inet vifproxy", "owned6"}, keys(uid, ipv6Addr, inetService), nil, true},
	wideSets:             {setName{"inet vifproxy", "wide4"}, keys(uid, ipv4Addr), nil, true},
	wideSets + 1:         {setName{"inet vifproxy", "wide6"}, keys(uid, ipv6Addr), nil, true},
}

const (
	portsMap = iota
	bindingsSet
	guardedSet
	acceptSet
	leaveSet // the first of the fence
	anywhereSet
	barredSet
	barredAgainSet // the same for the second look, as this is a set that opens something when it is flushed
	openPortsSet
	resolverSets // of IPv4; that of IPv6 follows
	_
	literalSets // of all proxies
	_
	ownedLiteralSets // of one proxy
	_
	wideLiteralSets // of one proxy, at the ports that are open everywhere
	_
	ownedPortsSet // of one proxy, at public addresses
	holeSets      // the same for what is not literal
	_
	ownedSets
	_
	wideSets
	_
)

// refusedSet is filled by the kernel.
var refusedSet = setName{"inet vifproxy", "refused"}

// datatype is what one part of a key is to nft (enum datatypes in its include/datatype.h), for those who list it.
type datatype struct {
	number    uint32
	size      int  // in bytes
	hostOrder bool // nft takes its bytes to be in this computer's order
}

var (
	nfProto     = datatype{2, 1, true}
	ipv4Addr    = datatype{7, 4, false}
	ipv6Addr    = datatype{8, 16, false}
	inetService = datatype{13, 2, false}
	uid         = datatype{24, 4, true}
	ifname      = datatype{41, unix.IFNAMSIZ, true}
)

func keys(parts ...datatype) []datatype { return parts }

func (s setName) family() byte {
	if strings.HasPrefix(s.table, "inet ") {
		return unix.NFPROTO_INET
	}
	return unix.NFPROTO_IPV4
}

// attributes name the set to the kernel.
func (s setName) attributes() []byte {
	return netlink.AppendString(netlink.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.bare()), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}

// bare is the table's name without its family.
func (s setName) bare() string { return strings.TrimPrefix(s.table, "inet ") }

// element is one of one of our sets, which is said by its place among them. Besides its key it has, in a map, where the
// key leads, and in a set of intervals the last key.
type element struct {
	set        int
	key, value string
}

func compareElements(a, b element) int {
	return cmp.Or(cmp.Compare(a.set, b.set), strings.Compare(a.key, b.key), strings.Compare(a.value, b.value))
}

// elementsOf says a state as the kernel holds it, in order.
func elementsOf(s firewall.State) (all []element) {
	put := func(set int, key string) { all = append(all, element{set, key, ""}) }
	// open puts holes: one address, or the interval from the first address of a network to its last.
	open := func(literal, other int, owner uint32, h firewall.Hole) {
		port := ""
		if h.Port != 0 {
			port = keyPart(h.Port)
		}
		if h.Literal {
			put(literal+version(h.To.Addr()), part(host32, owner)+string(h.To.Addr().AsSlice())+port)
			return
		}
		// In the order of bytes in which intervals are compared.
		first, last := string(h.To.Addr().AsSlice()), string(lastOf(h.To).AsSlice())
		prefix := part(net32, owner)
		all = append(all, element{other + version(h.To.Addr()), prefix + first + port, prefix + last + port})
	}
	for _, b := range s.Bindings {
		source := ifnameKey(b.Vif) + string(b.Addr.AsSlice())
		port := keyPart(b.To.Port())
		all = append(all, element{portsMap, source, string(b.To.Addr().AsSlice()) + port})
		put(bindingsSet, source+port)
		put(acceptSet, source+port)
	}
	for _, port := range s.Guarded {
		put(guardedSet, keyPart(port)[:2])
	}
	f := s.Fence
	for _, ifname := range f.Leave {
		put(leaveSet, ifnameKey(ifname))
	}
	if len(f.Leave) == 0 {
		put(anywhereSet, string([]byte{unix.NFPROTO_IPV4}))
		put(anywhereSet, string([]byte{unix.NFPROTO_IPV6}))
	}
	for _, ifname := range f.Barred {
		put(barredSet, ifnameKey(ifname))
		put(barredAgainSet, ifnameKey(ifname))
	}
	for _, port := range f.Ports {
		put(openPortsSet, keyPart(port)[:2])
	}
	for _, addr := range f.Resolvers {
		put(resolverSets+version(addr), string(addr.AsSlice()))
	}
	for _, h := range firewall.Disjoint(f.WithPorts(f.Holes)) {
		open(literalSets, holeSets, 0, h)
	}
	for _, p := range f.Proxies {
		for _, port := range p.Ports {
			put(ownedPortsSet, part(host32, p.UID)+keyPart(port))
		}
		for _, h := range firewall.Disjoint(p.Holes) {
			if h.Port == 0 {
				open(wideLiteralSets, wideSets, p.UID, h)
			} else {
				open(ownedLiteralSets, ownedSets, p.UID, h)
			}
		}
	}
	slices.SortFunc(all, compareElements)
	return all
}

// part is the owner of a hole in a key, if the hole has one.
func part(order func(uint32) []byte, owner uint32) string {
	if owner == 0 {
		return ""
	}
	return string(order(owner))
}

// lastOf is the last address of a network.
func lastOf(net netip.Prefix) netip.Addr {
	last := net.Addr().AsSlice()
	for bit := net.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr
}

// ifnameKey is the name of an interface in a key.
func ifnameKey(name string) string {
	var key [unix.IFNAMSIZ]byte
	copy(key[:], name)
	return string(key[:])
}

// keyPart is a port in a key of several parts, where every part is padded to a multiple of 4 bytes.
func keyPart(port uint16) string { return string([]byte{byte(port >> 8), byte(port), 0, 0}) }

func version(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}
