package firewall

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// update makes the kernel hold this state, which is in order, and no other, as one transaction. It changes nothing and
// says errOutrun if the last snapshot is not what the kernel holds any more. Where that is known to be a state, no
// more is looked at and sent than differs.
func (r *ruleset) update(want State) (writes int, err error) {
	if r.last.known && r.last.held.equal(want) {
		return 0, nil
	}
	have, wanted := r.last.elements, elements(nil)
	if r.last.known {
		gone, added := apart(r.last.held, want)
		have, wanted = elementsOf(gone), elementsOf(added)
	} else {
		wanted = elementsOf(want)
	}
	var changes [][]byte
	for _, set := range ourSets {
		if r.last.elements[set] == nil { // table ip qubes, where there is none
			continue
		}
		gone, added := difference(have[set], wanted[set]), difference(wanted[set], have[set])
		// What goes must be gone before another value of the same key comes, or a network that overlaps. Both happen
		// at the same instant, the end of the transaction.
		changes = append(changes, set.change(unix.NFT_MSG_DELSETELEM, 0, gone)...)
		changes = append(changes, set.change(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, added)...)
		writes += len(gone) + len(added)
	}
	if writes > 0 {
		if err := r.transact(r.last.generation, changes); err != nil {
			return 0, fmt.Errorf("change %d elements: %w", writes, err)
		}
		r.last.generation = following(r.last.generation)
	}
	r.last.hold(want)
	return writes, nil
}

// hold notes that the elements are what this state says, and forgets them.
func (s *snapshot) hold(state State) {
	bindings := append(s.held.Bindings[:0], state.Bindings...) // they are the caller's, who may change them
	s.known, s.held = true, State{bindings, state.Fence}
	for set := range s.elements {
		s.elements[set] = map[string]string{}
	}
}

// say tells whether the elements, of the sets that are there, are this state.
func (all elements) say(state State) bool {
	said := elementsOf(state)
	for set, held := range all {
		if !maps.Equal(held, said[set]) {
			return false
		}
	}
	return true
}

// difference is every element of a that is not in b, or is there with another value.
func difference(a, b map[string]string) map[string]string {
	var only map[string]string
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			if only == nil {
				only = make(map[string]string)
			}
			only[key] = value
		}
	}
	return only
}

// perMessage is how long a list of elements may become before another is begun: it is one attribute, whose length is a
// 16 bit number.
const perMessage = 48 << 10

// change puts or deletes elements.
func (s setName) change(request uint16, flags uint16, all map[string]string) (changes [][]byte) {
	besides := uint16(unix.NFTA_SET_ELEM_DATA)
	if s.family() == unix.NFPROTO_INET {
		besides = nftaSetElemKeyEnd
	}
	var list []byte
	for i, key := range slices.Sorted(maps.Keys(all)) { // so that equal changes are equal transactions
		data := func(text string) []byte { return attribute(nil, unix.NFTA_DATA_VALUE, []byte(text)...) }
		one := attribute(nil, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_KEY, data(key)...)
		if value := all[key]; value != "" {
			one = attribute(one, unix.NLA_F_NESTED|besides, data(value)...)
		}
		list = attribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, one...)
		if len(list) > perMessage || i == len(all)-1 {
			attrs := attribute(s.attributes(), unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...)
			changes = append(changes, message(request, s.family(), flags, attrs))
			list = nil
		}
	}
	return changes
}

// elements calls f for each element of a set.
func (r *ruleset) elements(set setName, f func(element []byte)) error {
	lists, err := r.ask(message(unix.NFT_MSG_GETSETELEM, set.family(), unix.NLM_F_DUMP, set.attributes()))
	if err != nil {
		return fmt.Errorf("read elements of set %s %s: %w", set.table, set.name, err)
	}
	for _, list := range lists {
		for _, element := range attributes(list[unix.NFTA_SET_ELEM_LIST_ELEMENTS]) {
			f(element)
		}
	}
	return nil
}
