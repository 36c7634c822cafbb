package firewall

import (
	"fmt"

	"golang.org/x/sys/unix"
)

type setName struct{ table, name string }

// ourSets are in the order in which their elements are written.
var ourSets = []setName{{"vifproxy", "ports"}, {"vifproxy", "bindings"}, {"qubes", "vifproxy"}}

// elements are those of each of our sets, by key. In a map they have a value.
type elements map[setName]map[string]string

// elementsOf says bindings as the kernel holds them.
func elementsOf(bindings []Binding) elements {
	all := make(elements, len(ourSets))
	for _, set := range ourSets {
		all[set] = make(map[string]string, len(bindings))
	}
	for _, b := range bindings {
		var vif [unix.IFNAMSIZ]byte
		copy(vif[:], b.Vif)
		source := string(vif[:]) + string(b.Addr.AsSlice())
		// Every part of a key is padded to a multiple of 4 bytes.
		port := string([]byte{byte(b.To.Port() >> 8), byte(b.To.Port()), 0, 0})
		all[ourSets[0]][source] = string(b.To.Addr().AsSlice()) + port
		all[ourSets[1]][source+port] = ""
		all[ourSets[2]][source+port] = ""
	}
	return all
}

// update makes the kernel hold these bindings, which are in order, and no others, as one transaction. It changes
// nothing and says errOutrun if the last snapshot is not what the kernel holds any more. Where that is known to
// be bindings, no more is looked at and sent than differs.
func (r *ruleset) update(want []Binding) (writes int, err error) {
	have, wanted := r.last.elements, elements(nil)
	if r.last.bound {
		gone, added := apart(r.last.bindings, want)
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
		// A map's element must go before the one with the same key and another value comes. Both happen at
		// the same instant, the end of the transaction.
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

// hold notes that the elements are what these bindings say, and forgets them.
func (s *snapshot) hold(bindings []Binding) {
	s.bound, s.bindings = true, append(s.bindings[:0], bindings...) // they are the caller's, who may change them
	for set := range s.elements {
		s.elements[set] = map[string]string{}
	}
}

// difference is every element of a that is not in b, or is there with another value.
func difference(a, b map[string]string) map[string]string {
	only := make(map[string]string)
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			only[key] = value
		}
	}
	return only
}

// apart are the bindings that only one of the two has. Both are in order.
func apart(have, want []Binding) (gone, added []Binding) {
	for len(have) > 0 && len(want) > 0 {
		if have[0] == want[0] {
			have, want = have[1:], want[1:]
		} else if compareBindings(have[0], want[0]) < 0 {
			gone, have = append(gone, have[0]), have[1:]
		} else {
			added, want = append(added, want[0]), want[1:]
		}
	}
	return append(gone, have...), append(added, want...)
}

// perMessage elements fit in one message: together they are one attribute, whose length is a 16 bit number.
const perMessage = 1000

// change puts or deletes elements.
func (s setName) change(request uint16, flags uint16, all map[string]string) (changes [][]byte) {
	var list []byte
	n := 0
	for key, value := range all {
		data := func(text string) []byte { return attribute(nil, unix.NFTA_DATA_VALUE, []byte(text)...) }
		one := attribute(nil, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_KEY, data(key)...)
		if value != "" {
			one = attribute(one, unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_DATA, data(value)...)
		}
		list = attribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, one...)
		if n++; n%perMessage == 0 || n == len(all) {
			attrs := attribute(s.attributes(), unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, list...)
			changes = append(changes, message(request, unix.NFPROTO_IPV4, flags, attrs))
			list = nil
		}
	}
	return changes
}

// attributes name the set to the kernel.
func (s setName) attributes() []byte {
	return name(name(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.table), unix.NFTA_SET_ELEM_LIST_SET, s.name)
}

// elements calls f for each element of a set.
func (r *ruleset) elements(family byte, set setName, f func(element []byte)) error {
	lists, err := r.ask(message(unix.NFT_MSG_GETSETELEM, family, unix.NLM_F_DUMP, set.attributes()))
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
