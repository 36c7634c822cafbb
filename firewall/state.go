package firewall

import (
	"cmp"
	"slices"
)

// State is what the kernel is to hold.
type State struct {
	Bindings []Binding
	Guarded  []uint16 // ports of proxies that nobody is bound to: they start, or finish their connections
	Fence    Fence
	Askers   []Asker

	// Shared is the port at which all proxies are reached, if a switchboard hands connections to their sockets. If it is 0, nat
	// translates connections to the ports where proxies listen.
	Shared uint16
}

// PortOf returns the port to which packets of a binding's AppVM are addressed when they have come in.
func (s State) PortOf(b Binding) uint16 {
	if s.Shared != 0 && !b.Local() {
		return s.Shared
	}
	return b.To.Port()
}

// Normal returns the state in a fixed order, so that equal states compare equal, or an error if the state cannot be. A port that
// an AppVM is bound to is always guarded.
func (c Config) Normal(s State) (State, error) {
	var err error
	if s.Bindings, err = c.normalizeBindings(s.Bindings); err != nil {
		return State{}, err
	}
	s.Guarded = sortedUnique(s.Guarded, cmp.Compare)
	var more []uint16 // usually none: the caller guards all ports in use
	for _, b := range s.Bindings {
		if _, ok := slices.BinarySearch(s.Guarded, b.To.Port()); !ok {
			more = append(more, b.To.Port())
		}
	}
	if len(more) > 0 {
		s.Guarded = sortedUnique(append(more, s.Guarded...), cmp.Compare)
	}
	if s.Fence, err = c.normalFence(s.Fence); err != nil {
		return State{}, err
	}
	if s.Askers, err = c.normalAskers(s.Askers); err != nil {
		return State{}, err
	}
	return s, nil
}

// Equal reports whether two states say the same in the same order.
func (s State) Equal(other State) bool {
	f, g := s.Fence, other.Fence
	return slices.Equal(s.Bindings, other.Bindings) && slices.Equal(s.Guarded, other.Guarded) &&
		slices.Equal(f.Leave, g.Leave) && slices.Equal(f.Barred, g.Barred) && slices.Equal(f.Resolvers, g.Resolvers) &&
		slices.Equal(f.Ports, g.Ports) && slices.Equal(f.Openings, g.Openings) && slices.EqualFunc(f.Proxies, g.Proxies, sameProxy) &&
		slices.Equal(s.Askers, other.Askers)
}

// Diff returns the parts of two normal states that differ, and little else.
func Diff(have, want State) (gone, added State) {
	gone, added = have, want
	gone.Bindings, added.Bindings = Unshared(have.Bindings, want.Bindings, compareBindings, same[Binding])
	gone.Guarded, added.Guarded = Unshared(have.Guarded, want.Guarded, cmp.Compare, same[uint16])
	gone.Askers, added.Askers = Unshared(have.Askers, want.Askers, compareAskers, same[Asker])
	f, g := &gone.Fence, &added.Fence
	if slices.Equal(f.Barred, g.Barred) {
		f.Barred, g.Barred = nil, nil
	}
	f.Proxies, g.Proxies = Unshared(f.Proxies, g.Proxies, compareProxies, sameProxy)
	if slices.Equal(f.Resolvers, g.Resolvers) {
		f.Resolvers, g.Resolvers = nil, nil
	}
	if slices.Equal(f.Ports, g.Ports) && slices.Equal(f.Openings, g.Openings) { // there are openings for all these ports
		f.Ports, f.Openings, g.Ports, g.Openings = nil, nil, nil, nil
	}
	return gone, added
}

func same[T comparable](a, b T) bool { return a == b }

func compareProxies(a, b Proxy) int { return cmp.Compare(a.UID, b.UID) }

func compareAskers(a, b Asker) int { return cmp.Compare(a.UID, b.UID) }

func sameProxy(a, b Proxy) bool {
	return a.UID == b.UID && slices.Equal(a.Openings, b.Openings) && slices.Equal(a.Ports, b.Ports) &&
		slices.Equal(a.Listed, b.Listed) && a.AnyAddress == b.AnyAddress
}

// Unshared returns what only one of two sorted lists has.
func Unshared[T any](have, want []T, compare func(a, b T) int, same func(a, b T) bool) (gone, added []T) {
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

func sortedUnique[T comparable](all []T, compare func(a, b T) int) []T {
	if increase(all, compare) { // usually
		return slices.Clip(all)
	}
	all = slices.Clone(all)
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}

// increase reports whether each element is greater than the one before.
func increase[T any](all []T, compare func(a, b T) int) bool {
	for i := 1; i < len(all); i++ {
		if compare(all[i-1], all[i]) >= 0 {
			return false
		}
	}
	return true
}
