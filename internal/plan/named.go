package plan

import (
	"net/netip"
	"slices"
)

// Named returns the AppVMs of these names: those that should be there, with their addresses, and those without a list that a person has
// stopped. known are all names that there are.
func (in Inputs) Named(want []*Desired, names []string) (found []Identity, addrs []netip.Addr, known []string) {
	for _, d := range want {
		known = append(known, d.Name)
		if slices.Contains(names, d.Name) {
			found, addrs = append(found, d.Identity()), append(addrs, d.Addr)
		}
	}
	for _, name := range names {
		if in.Stops.Named(name) && !slices.Contains(known, name) {
			known, found = append(known, name), append(found, Identity{Name: name})
		}
	}
	return found, addrs, known
}
