package firewall

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// setName says the table as nft writes it: with the family before its name if it is not ip.
type setName struct{ table, name string }

// ourSets hold all that a State says, and are in the order in which their elements are written.
var ourSets = [...]setName{
	portsMap:         {"vifproxy", "ports"},
	bindingsSet:      {"vifproxy", "bindings"},
	acceptSet:        {"qubes", "vifproxy"},
	openPortsSet:     {"inet vifproxy", "ports"},
	resolverSets:     {"inet vifproxy", "resolvers4"},
	resolverSets + 1: {"inet vifproxy", "resolvers6"},
	holeSets:         {"inet vifproxy", "holes4"},
	holeSets + 1:     {"inet vifproxy", "holes6"},
	ownedSets:        {"inet vifproxy", "owned4"},
	ownedSets + 1:    {"inet vifproxy", "owned6"},
	wideSets:         {"inet vifproxy", "wide4"},
	wideSets + 1:     {"inet vifproxy", "wide6"},
}

const (
	portsMap = iota
	bindingsSet
	acceptSet
	openPortsSet
	resolverSets // of IPv4; that of IPv6 follows
	_
	holeSets
	_
	ownedSets
	_
	wideSets
	_
)

// refusedSet is filled by the kernel.
var refusedSet = setName{"inet vifproxy", "refused"}

func (s setName) family() byte {
	if strings.HasPrefix(s.table, "inet ") {
		return unix.NFPROTO_INET
	}
	return unix.NFPROTO_IPV4
}

// attributes name the set to the kernel.
func (s setName) attributes() []byte {
	table := strings.TrimPrefix(s.table, "inet ")
	return name(name(nil, unix.NFTA_SET_ELEM_LIST_TABLE, table), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}

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
func elementsOf(s State) (all []element) {
	put := func(set int, key, value string) { all = append(all, element{set, key, value}) }
	// open puts an interval: from the first address of a network to its last.
	open := func(set int, owner string, net netip.Prefix, port string) {
		first, last := net.Addr().AsSlice(), net.Addr().AsSlice()
		for bit := net.Bits(); bit < 8*len(last); bit++ {
			last[bit/8] |= 0x80 >> (bit % 8)
		}
		put(set+version(net.Addr()), owner+string(first)+port, owner+string(last)+port)
	}
	for _, b := range s.Bindings {
		var vif [unix.IFNAMSIZ]byte
		copy(vif[:], b.Vif)
		source := string(vif[:]) + string(b.Addr.AsSlice())
		port := keyPart(b.To.Port())
		put(portsMap, source, string(b.To.Addr().AsSlice())+port)
		put(bindingsSet, source+port, "")
		put(acceptSet, source+port, "")
	}
	for _, port := range s.Fence.Ports {
		put(openPortsSet, keyPart(port)[:2], "")
	}
	for _, addr := range s.Fence.Resolvers {
		put(resolverSets+version(addr), string(addr.AsSlice()), "")
	}
	for _, h := range disjoint(s.Fence.withPorts(s.Fence.Holes)) {
		open(holeSets, "", h.To, keyPart(h.Port))
	}
	for _, p := range s.Fence.Proxies {
		// The order of bytes in which intervals are compared; nft 1.0.6 and later have the rule turn the uid into it.
		uid := string(binary.BigEndian.AppendUint32(nil, p.UID))
		for _, h := range disjoint(p.Holes) {
			if h.Port == 0 {
				open(wideSets, uid, h.To, "")
			} else {
				open(ownedSets, uid, h.To, keyPart(h.Port))
			}
		}
	}
	slices.SortFunc(all, compareElements)
	return all
}

// keyPart is a port in a key of several parts, where every part is padded to a multiple of 4 bytes.
func keyPart(port uint16) string { return string([]byte{byte(port >> 8), byte(port), 0, 0}) }

func version(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Equal tells whether two states say the same in the same order.
func (s State) Equal(other State) bool {
	f, g := s.Fence, other.Fence
	return slices.Equal(s.Bindings, other.Bindings) && slices.Equal(f.Resolvers, g.Resolvers) &&
		slices.Equal(f.Ports, g.Ports) && slices.Equal(f.Holes, g.Holes) && slices.EqualFunc(f.Proxies, g.Proxies, sameProxy)
}

// apart are the parts of two states, which are in order, that differ, and little besides.
func apart(have, want State) (gone, added State) {
	gone, added = have, want
	gone.Bindings, added.Bindings = unshared(have.Bindings, want.Bindings, compareBindings, same[Binding])
	f, g := &gone.Fence, &added.Fence
	f.Proxies, g.Proxies = unshared(f.Proxies, g.Proxies, compareProxies, sameProxy)
	if slices.Equal(f.Resolvers, g.Resolvers) {
		f.Resolvers, g.Resolvers = nil, nil
	}
	if slices.Equal(f.Ports, g.Ports) && slices.Equal(f.Holes, g.Holes) { // there are holes for all these ports
		f.Ports, f.Holes, g.Ports, g.Holes = nil, nil, nil, nil
	}
	return gone, added
}

func same[T comparable](a, b T) bool { return a == b }

func compareProxies(a, b Proxy) int { return cmp.Compare(a.UID, b.UID) }

func sameProxy(a, b Proxy) bool { return a.UID == b.UID && slices.Equal(a.Holes, b.Holes) }

// unshared is what only one of two ordered lists has.
func unshared[T any](have, want []T, compare func(a, b T) int, same func(a, b T) bool) (gone, added []T) {
	for len(have) > 0 && len(want) > 0 {
		if same(have[0], want[0]) {
			have, want = have[1:], want[1:]
		} else if compare(have[0], want[0]) < 0 {
			gone, have = append(gone, have[0]), have[1:]
		} else {
			added, want = append(added, want[0]), want[1:]
		}
	}
	return append(gone, have...), append(added, want...)
}
