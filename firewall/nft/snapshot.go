package nft

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// kernel is a connection to the kernel's nftables that remembers what it has read.
type kernel struct {
	*ruleset.Conn
	last   snapshot
	stale  bool // the kernel holds something else than last says
	reread bool // it has had to be read, and somebody may have changed what is pinned
}

func dial() (*kernel, error) {
	conn, err := ruleset.Dial()
	if err != nil {
		return nil, err
	}
	return &kernel{Conn: conn}, nil
}

// A snapshot is what the kernel holds at one generation of its ruleset.
type snapshot struct {
	generation uint32
	things     [len(listings)]*listed
	sets       map[*set]*listedSet // those that are there

	known bool // the sets hold exactly what held says
	held  firewall.State
}

// A listedSet is what the kernel holds of a set.
type listedSet struct {
	contents
	raw      []byte // the answer that said so; nil after a write that no answer has shown yet
	catchAll bool   // it also has an element for all keys, which only nft can take out again
}

// read takes a snapshot. It needs several requests. Their answers are one consistent picture if the generation is the same before
// and after them. If it is still that of the last snapshot, one request is enough.
func (k *kernel) read() (snapshot, error) {
	for range ruleset.Attempts {
		generation, err := k.Generation()
		if err != nil {
			return snapshot{}, err
		}
		if !k.stale && k.last.generation == generation {
			return k.last, nil
		}
		now, err := k.readAll()
		after, err2 := k.Generation()
		if err2 != nil {
			return snapshot{}, err2
		}
		if after != generation {
			continue // err may mean only that something vanished
		}
		if err != nil {
			return snapshot{}, err
		}
		now.generation = generation
		k.last, k.stale, k.reread = now, false, true
		return k.last, nil
	}
	return snapshot{}, ruleset.ErrBusy
}

// readAll reads everything, and reuses the unchanged parts of the last snapshot.
func (k *kernel) readAll() (now snapshot, err error) {
	for i, l := range listings {
		last := k.last.things[i]
		if last == nil {
			last = &listed{}
		}
		raw, same, err := k.Repeat(l.request, last.raw)
		if err != nil {
			return now, fmt.Errorf("read %ss: %w", []kind{aTable, aChain, aSet, aRule}[min(i, 3)], err)
		}
		if now.things[i] = last; !same {
			now.things[i] = &listed{keep(raw), l.things(raw)}
		}
	}
	now.sets = make(map[*set]*listedSet, len(ourSets))
	now.known, now.held = true, k.last.held
	for _, s := range ourSets {
		if _, there := now.find(thing{kind: aSet, table: s.table, name: s.name}); !there {
			continue
		}
		var changed bool
		if now.sets[s], changed, err = k.readElements(s, k.last.sets[s]); err != nil {
			return now, err
		}
		now.known = now.known && !changed
	}
	now.known = now.known && k.last.known && len(now.sets) == len(k.last.sets)
	return now, nil
}

// keep returns a copy that is not nil.
func keep(raw []byte) []byte { return append([]byte{}, raw...) }

// readElements reads a set that may still hold what it held last.
func (k *kernel) readElements(s *set, last *listedSet) (now *listedSet, changed bool, err error) {
	if last == nil {
		last = &listedSet{}
	}
	raw, same, err := k.Repeat(s.dump, last.raw)
	if err == nil && same {
		return last, false, nil
	}
	now = &listedSet{contents: last.contents}
	if err == nil {
		same, err = last.shows(raw)
	}
	if err == nil && !same {
		now.contents = make(contents)
		err = eachElement(raw, func(key, more []byte) {
			if key == nil {
				now.catchAll = true
				return
			}
			now.contents[string(key)] = string(more)
		})
	}
	if err != nil {
		return nil, false, fmt.Errorf("read elements of set %s %s: %w", s.table, s.name, err)
	}
	now.raw = keep(raw)
	return now, !same, nil
}

// shows reports whether an answer has these elements and no other.
func (s *listedSet) shows(raw []byte) (same bool, err error) {
	if s.contents == nil || s.catchAll {
		return false, nil
	}
	count, same := 0, true
	err = eachElement(raw, func(key, more []byte) {
		count++
		held, ok := s.contents[string(key)]
		same = same && ok && held == string(more) && key != nil
	})
	return same && count == len(s.contents), err
}

// eachElement calls f for the elements in an answer: key is nil for the element for all keys, more is where the key leads or
// the last key of an interval.
func eachElement(raw []byte, f func(key, more []byte)) error {
	var d netlink.Decoder
	for o := range ruleset.Objects(raw) {
		for _, e := range d.All(o.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			more := d.Find(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VALUE)
			if end := d.Find(e, ruleset.SetElemKeyEnd, unix.NFTA_DATA_VALUE); end != nil {
				more = end
			}
			f(d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE), more)
		}
	}
	return d.Err()
}

// find returns the state of a thing that is no rule.
func (s *snapshot) find(t thing) (state string, there bool) {
	for _, l := range s.things {
		if l == nil { // nothing has been read
			break
		}
		if state, there = l.things[t]; there {
			break
		}
	}
	return state, there
}

func (s *snapshot) hasTable(table string) bool {
	_, there := s.find(thing{kind: aTable, table: table})
	return there
}

func (s *snapshot) hasChain(table, chain string) bool {
	_, there := s.find(thing{kind: aChain, table: table, name: chain})
	return there
}

func (s *snapshot) hasSet(set *set) bool { return s.sets[set] != nil }

// rules returns the handles of the rules of ours in a chain.
func (s *snapshot) rules(table, chain string) (handles []uint64) {
	for _, l := range s.things {
		if l == nil { // nothing has been read
			break
		}
		for t := range l.things {
			if t.kind == aRule && t.table == table && t.name == chain {
				handles = append(handles, t.rule)
			}
		}
	}
	return handles
}

// stands reports whether everything but the elements of sets is as in these listings. It is not if a set has an element for all
// keys.
func (s *snapshot) stands(loaded *[len(listings)]*listed) bool {
	for i, now := range s.things {
		if was := loaded[i]; now != was && !maps.Equal(now.things, was.things) {
			return false
		}
		loaded[i] = now // the next comparison is faster
	}
	for _, held := range s.sets {
		if held.catchAll {
			return false
		}
	}
	return true
}

// changes returns what differs from these listings, for a log.
func (s *snapshot) changes(loaded *[len(listings)]*listed) (gone, added []string) {
	missing := func(of, in map[thing]string) (all []string) {
		for t, state := range of {
			if other, ok := in[t]; !ok || other != state {
				all = append(all, fmt.Sprintf("%s%s", t, state))
			}
		}
		slices.Sort(all)
		return all
	}
	for i, now := range s.things {
		gone = append(gone, missing(loaded[i].things, now.things)...)
		added = append(added, missing(now.things, loaded[i].things)...)
	}
	for _, set := range ourSets {
		if held := s.sets[set]; held != nil && held.catchAll {
			added = append(added, fmt.Sprintf("set %s %s: an element for all keys", set.table, set.name))
		}
	}
	return gone, added
}

// matches reports whether those of these sets that are there hold what this state says.
func (s *snapshot) matches(sets []*set, state firewall.State) bool {
	if s.known {
		return s.held.Equal(state)
	}
	for _, set := range sets {
		if held := s.sets[set]; held != nil && !held.holds(set.elementsOf(state)) {
			return false
		}
	}
	return true
}

// otherThan names the first element that the sets do not have as this state says.
func (s *snapshot) otherThan(state firewall.State) string {
	for _, set := range ourSets {
		held := s.sets[set]
		if held == nil {
			continue
		}
		gone, added := firewall.Unshared(held.sorted(), set.elementsOf(state), compareElements, sameElement)
		if len(gone) > 0 {
			return fmt.Sprintf("set %s %s has %s", set.table, set.name, set.text(gone[0]))
		}
		if len(added) > 0 {
			return fmt.Sprintf("set %s %s lacks %s", set.table, set.name, set.text(added[0]))
		}
	}
	return "none"
}

// remember notes that the sets hold what this state says.
func (s *snapshot) remember(state firewall.State) {
	bindings := s.held.Bindings[:0]
	s.known, s.held = true, state
	s.held.Bindings = append(bindings, state.Bindings...) // the caller may change its own
}
