// Package netwatch reads which AppVMs are connected to this firewall VM.
//
// Xen's back end makes one network interface per virtual network card of a guest, and the hotplug script of
// Qubes configures it with three separate commands. An AppVM is connected when all three have taken effect:
//
//	link     vif7.0 exists and is administratively UP     (7 is the guest's domid, 0 the number of its card)
//	route    10.137.0.18/32 goes out of vif7.0            (the destination is the AppVM)
//	address  10.138.1.1 is on vif7.0                      (what the AppVM uses as its gateway)
//
// A guest that comes has them in that order, but nothing here depends on the order. Nothing waits for the carrier either, which the
// guest switches on and off as it likes.
//
// Three functions share no state. [Read] asks the kernel for everything and returns a [Snapshot]. [Watch] says when the Snapshot may
// have changed. [Look] asks only about the place that a [Hint] of Watch names. Events are hints and never data. A Snapshot consists of
// three dumps that are not one atomic reading, and events get lost when the kernel's queue overflows. Neither matters: every
// change after the subscription causes an event or an overflow, and each of them a new reading.
//
// Concurrency: all functions may be called from anywhere; they are about the network of the calling thread. A Snapshot is a value.
package netwatch

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// An AppVM is a connected AppVM.
type AppVM struct {
	Addr    netip.Addr // its IPv4 address
	Gateway netip.Addr // first primary IPv4 address of its vif, of its newest vif when it has several
	Vifs    []string   // sorted by domid, then devid. An HVM has two: its own, and its stub domain's
	Links   []int32    // indexes of Vifs; a vif that is made again under its name has another
}

// A Snapshot is every connected AppVM at one moment, sorted by Addr.
type Snapshot []AppVM

// Equal reports whether s and t say the same.
func (s Snapshot) Equal(t Snapshot) bool {
	return slices.EqualFunc(s, t, func(a, b AppVM) bool {
		return a.Addr == b.Addr && a.Gateway == b.Gateway && slices.Equal(a.Vifs, b.Vifs) && slices.Equal(a.Links, b.Links)
	})
}

// Find returns the AppVM with this address, if it is connected.
func (s Snapshot) Find(addr netip.Addr) (AppVM, bool) {
	i, found := slices.BinarySearchFunc(s, addr, func(vm AppVM, addr netip.Addr) int { return vm.Addr.Compare(addr) })
	if !found {
		return AppVM{}, false
	}
	return s[i], true
}

// After returns s with what [Look] found at the place of a Hint. It is not ok if that leaves doubt: if something has gone or changed,
// or if an AppVM has more than one vif. Then use [Read].
func (s Snapshot) After(h Hint, found Snapshot) (now Snapshot, ok bool) {
	if h == (Hint{}) {
		return nil, false
	}
	var known Snapshot
	for _, vm := range s {
		if vm.Addr == h.Host || slices.Contains(vm.Links, h.Link) {
			known = append(known, vm)
		}
	}
	if len(known) > 0 {
		return s, known.Equal(found)
	}
	for _, vm := range found {
		if _, elsewhere := s.Find(vm.Addr); elsewhere {
			return nil, false
		}
	}
	now = slices.Concat(s, found)
	slices.SortFunc(now, func(a, b AppVM) int { return a.Addr.Compare(b.Addr) })
	return now, true
}

// domidMax is DOMID_FIRST_RESERVED of Xen's public/xen.h, 0x7ff0. vif-route-qubes subtracts the domid from it
// to get the metric of the AppVM's route.
const domidMax = 0x7ff0

// ParseVif splits the name of a Xen back end interface, vifDOMID.DEVID. It is strict, because people name interfaces as they please:
// no sign, no leading zero, nothing after the number (vif7.0-emu is the emulated card of an HVM).
func ParseVif(name string) (domid, devid int, ok bool) {
	numbers, ok := strings.CutPrefix(name, "vif")
	if !ok {
		return 0, 0, false
	}
	dom, dev, ok := strings.Cut(numbers, ".")
	if !ok {
		return 0, 0, false
	}
	domid, ok = decimal(dom)
	if !ok || domid > domidMax {
		return 0, 0, false
	}
	devid, ok = decimal(dev)
	if !ok {
		return 0, 0, false
	}
	return domid, devid, true
}

// decimal parses a number that is written the way the kernel's %d writes it.
func decimal(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

// connected makes a Snapshot of the kernel's three tables. The tables need not fit together: a link may have gone before its
// addresses were read, or have come after the links were read.
func connected(links []link, addrs []address, routes []route) Snapshot {
	vifs := make(map[int32]vif, len(links))
	for _, l := range links {
		if domid, devid, ok := ParseVif(l.name); ok && l.up {
			vifs[l.index] = vif{link: l, domid: domid, devid: devid}
		}
	}
	for _, a := range addrs {
		// The kernel lists the addresses of a link in the order in which it prefers them as source address.
		if v, ok := vifs[a.index]; ok && !a.secondary && !v.gateway.IsValid() {
			v.gateway = a.local
			vifs[a.index] = v
		}
	}
	found := make([]guestRoute, 0, len(routes))
	for _, r := range routes {
		// A route by way of another router leads to a machine behind the AppVM, not to the AppVM.
		if v := vifs[r.oif]; v.gateway.IsValid() && r.toHost() && r.kind == unix.RTN_UNICAST && !r.via {
			found = append(found, guestRoute{r.dst, v})
		}
	}
	slices.SortFunc(found, guestRoute.compare)
	found = slices.Compact(found) // the same route with another metric or TOS is listed once more

	snapshot := make(Snapshot, 0, len(found))
	names, indexes := make([]string, 0, len(found)), make([]int32, 0, len(found)) // of all, to be cut in pieces
	for len(found) > 0 {
		addr, newest, first := found[0].dst, found[0].vif, len(names)
		for len(found) > 0 && found[0].dst == addr {
			if found[0].index > newest.index {
				newest = found[0].vif
			}
			names, indexes = append(names, found[0].name), append(indexes, found[0].index)
			found = found[1:]
		}
		snapshot = append(snapshot, AppVM{
			Addr: addr, Gateway: newest.gateway, Vifs: slices.Clip(names[first:]), Links: slices.Clip(indexes[first:]),
		})
	}
	return snapshot
}

// A vif is a link that Xen made.
type vif struct {
	link
	domid, devid int
	gateway      netip.Addr
}

// A guestRoute leads to an AppVM.
type guestRoute struct {
	dst netip.Addr
	vif
}

func (a guestRoute) compare(b guestRoute) int {
	return cmp.Or(a.dst.Compare(b.dst), cmp.Compare(a.domid, b.domid), cmp.Compare(a.devid, b.devid), cmp.Compare(a.index, b.index))
}
