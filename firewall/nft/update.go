package nft

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// update makes the kernel hold exactly this normal state, in one transaction. It returns ErrStale if the kernel no longer holds
// the last snapshot. If that is known to be a state, update looks at and sends only what differs.
//
// When a binding moves, the guard forgets the old place in a second transaction, after inForce: a packet that was already
// translated, on another CPU, has yet to pass the guard.
func (k *kernel) update(want firewall.State, inForce func()) (writes int, err error) {
	if k.last.known && k.last.held.Equal(want) {
		return 0, nil
	}
	var now, late transaction
	less, more := k.last.held, want
	if k.last.known {
		less, more = firewall.Diff(k.last.held, want)
	}
	for _, set := range ourSets {
		held := k.last.sets[set]
		if held == nil { // table ip qubes, where there is none
			continue
		}
		gone, added := set.elementsOf(less), set.elementsOf(more)
		if !k.last.known {
			gone = held.sorted()
		}
		gone, added = firewall.Unshared(gone, added, compareElements, sameElement)
		// Delete before adding: another value of the same key may come, or a network that overlaps. Both take effect at the
		// same instant, the end of the transaction.
		if set.late && len(added) > 0 {
			late.remove(set, gone)
		} else {
			now.remove(set, gone)
		}
		now.add(set, added)
		writes += len(gone) + len(added)
	}
	if len(now.changes)+len(late.changes) == 0 { // such as a binding that moves on the switchboard
		// The caller believes that the rules stand if this succeeds, and a transaction would have found out.
		if generation, err := k.Generation(); err != nil {
			return 0, err
		} else if generation != k.last.generation {
			return 0, ruleset.ErrStale
		}
	}
	for i, t := range []transaction{now, late} {
		if len(t.changes) == 0 {
			continue
		}
		if i > 0 {
			inForce()
			time.Sleep(inFlight)
		}
		if err := k.Transact(k.last.generation, t.changes); err != nil {
			return 0, fmt.Errorf("change %d elements: %w", writes, err)
		}
		k.last.apply(t)
	}
	k.last.remember(want)
	return writes, nil
}

// inFlight is how long a packet takes at most from one hook to the next: some microseconds, and longer if the hypervisor stops
// the CPU meanwhile.
const inFlight = 2 * time.Millisecond

// A transaction changes elements.
type transaction struct {
	changes     [][]byte
	gone, added []change
}

// A change puts elements into one set, or takes them out.
type change struct {
	set      *set
	elements []element
}

func (t *transaction) remove(s *set, all []element) {
	if len(all) > 0 {
		t.changes = append(t.changes, s.request(unix.NFT_MSG_DELSETELEM, 0, all)...)
		t.gone = append(t.gone, change{s, all})
	}
}

func (t *transaction) add(s *set, all []element) {
	if len(all) > 0 {
		t.changes = append(t.changes, s.request(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, all)...)
		t.added = append(t.added, change{s, all})
	}
}

// apply changes the snapshot as a successful transaction has changed the kernel.
func (s *snapshot) apply(t transaction) {
	s.generation = ruleset.Following(s.generation)
	s.known = false
	for _, c := range t.gone {
		held := s.sets[c.set]
		held.raw = nil
		for _, e := range c.elements {
			delete(held.contents, e.key)
		}
	}
	for _, c := range t.added {
		held := s.sets[c.set]
		held.raw = nil
		for _, e := range c.elements {
			held.contents[e.key] = e.more
		}
	}
}

// listBytesMax is how long a list of elements may become before another is begun: it is one attribute, whose length is a
// 16 bit number.
const listBytesMax = 48 << 10

// request returns the messages that put or delete elements.
func (s *set) request(request uint16, flags uint16, all []element) (requests [][]byte) {
	second := uint16(unix.NFTA_SET_ELEM_DATA)
	if s.interval {
		second = ruleset.SetElemKeyEnd
	}
	return s.lists(request, flags, len(all), func(i int, one []byte) []byte {
		one = value(one, unix.NFTA_SET_ELEM_KEY, all[i].key)
		if all[i].more != "" {
			one = value(one, second, all[i].more)
		}
		return one
	})
}

// lists returns messages with so many elements, each of which fill appends.
func (s *set) lists(request, flags uint16, count int, fill func(i int, one []byte) []byte) (requests [][]byte) {
	for i := 0; i < count; {
		attrs := netlink.AppendNested(s.attributes(), unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list []byte) []byte {
			for begin := len(list); i < count && len(list)-begin < listBytesMax; i++ {
				list = netlink.AppendNested(list, unix.NFTA_LIST_ELEM, func(one []byte) []byte { return fill(i, one) })
			}
			return list
		})
		requests = append(requests, ruleset.Message(request, family(s.table), flags, attrs))
	}
	return requests
}

// value appends an attribute that is a key or what a key leads to.
func value(to []byte, kind uint16, data string) []byte {
	return netlink.AppendNested(to, kind, func(to []byte) []byte { return netlink.Append(to, unix.NFTA_DATA_VALUE, []byte(data)...) })
}
