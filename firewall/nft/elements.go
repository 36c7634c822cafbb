package nft

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// update makes the kernel hold this state, which is in order, and no other, as one transaction. It says ruleset.ErrStale if the
// last snapshot is not what the kernel holds any more. Where that is known to be a state, no more is looked at and sent
// than differs.
//
// Where a binding moves, the guard forgets where it led in a second transaction, after inForce: a packet that had been
// translated by then, on another CPU, has yet to pass the guard.
func (r *kernel) update(want firewall.State, inForce func()) (writes int, err error) {
	if r.last.known && r.last.held.Equal(want) {
		return 0, nil
	}
	have, wanted := r.last.elements, []element(nil)
	if r.last.known {
		gone, added := firewall.Diff(r.last.held, want)
		have, wanted = elementsOf(gone), elementsOf(added)
	} else {
		wanted = elementsOf(want)
	}
	gone, added := firewall.Unshared(have, wanted, compareElements, func(a, b element) bool { return a == b })
	var changes, after [][]byte
	for set, there := range r.last.sets {
		var less, more []element
		less, gone = ofSet(set, gone)
		more, added = ofSet(set, added)
		if !there { // table ip qubes, where there is none
			continue
		}
		// What goes must be gone before another value of the same key comes, or a network that overlaps. Both happen
		// at the same instant, the end of the transaction.
		removal := change(unix.NFT_MSG_DELSETELEM, 0, ourSets[set], less)
		if (set == bindingsSet || set == acceptSet) && len(more) > 0 {
			after = append(after, removal...)
		} else {
			changes = append(changes, removal...)
		}
		changes = append(changes, change(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ourSets[set], more)...)
		writes += len(less) + len(more)
	}
	for i, transaction := range [][][]byte{changes, after} {
		if len(transaction) == 0 {
			continue
		}
		if i > 0 {
			inForce()
			time.Sleep(onTheWay)
		}
		if err := r.Transact(r.last.generation, transaction); err != nil {
			return 0, fmt.Errorf("change %d elements: %w", writes, err)
		}
		r.last.generation = ruleset.Following(r.last.generation)
	}
	r.last.hold(want)
	return writes, nil
}

// onTheWay is how long a packet takes at most from one hook to the next: some microseconds, and longer where the
// hypervisor stops the CPU meanwhile.
const onTheWay = 2 * time.Millisecond

// hold notes that the elements are what this state says, and forgets them.
func (s *snapshot) hold(state firewall.State) {
	bindings := s.held.Bindings[:0]
	s.known, s.held = true, state
	s.held.Bindings = append(bindings, state.Bindings...) // they are the caller's, who may change them
	s.elements = nil
}

// saysFrom reports whether the elements of the sets that are there, from this one on, are what this state says.
func (s *snapshot) saysFrom(first int, state firewall.State) bool {
	if s.known {
		return s.held.Equal(state)
	}
	other := func(e element) bool { return e.set < first || !s.sets[e.set] }
	return slices.Equal(slices.DeleteFunc(slices.Clone(s.elements), other), slices.DeleteFunc(elementsOf(state), other))
}

// ofSet splits elements, which are in order and begin with those of this set.
func ofSet(set int, all []element) (these, others []element) {
	n := 0
	for n < len(all) && all[n].set == set {
		n++
	}
	return all[:n], all[n:]
}

// perMessage is how long a list of elements may become before another is begun: it is one attribute, whose length is a
// 16 bit number.
const perMessage = 48 << 10

// change puts or deletes elements of a set.
func change(request uint16, flags uint16, set set, all []element) (changes [][]byte) {
	besides := uint16(unix.NFTA_SET_ELEM_DATA)
	if set.interval {
		besides = ruleset.SetElemKeyEnd
	}
	for len(all) > 0 {
		attrs := netlink.AppendNested(set.attributes(), unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) []byte {
			for begin := len(list); len(all) > 0 && len(list)-begin < perMessage; all = all[1:] {
				list = netlink.AppendNested(list, unix.NFTA_LIST_ELEM, func(one []byte) []byte {
					one = value(one, unix.NFTA_SET_ELEM_KEY, all[0].key)
					if all[0].value != "" {
						one = value(one, besides, all[0].value)
					}
					return one
				})
			}
			return list
		})
		changes = append(changes, ruleset.Message(request, set.family(), flags, attrs))
	}
	return changes
}

// value appends an attribute that is a key or what a key leads to.
func value(to []byte, number uint16, data string) []byte {
	return netlink.AppendNested(to, number, func(to []byte) []byte { return netlink.Append(to, unix.NFTA_DATA_VALUE, []byte(data)...) })
}

// elements calls f for each element of a set, which is overwritten when f has returned.
func (r *kernel) elements(set setName, f func(d *netlink.Decoder, element []byte)) error {
	var d netlink.Decoder
	err := r.Walk(ruleset.Message(unix.NFT_MSG_GETSETELEM, set.family(), unix.NLM_F_DUMP, set.attributes()), func(list ruleset.Object) error {
		for _, element := range d.All(list.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			f(&d, element)
		}
		return d.Err()
	})
	if err != nil {
		return fmt.Errorf("read elements of set %s %s: %w", set.table, set.name, err)
	}
	return nil
}
