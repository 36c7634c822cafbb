package forward

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// An entry is an element of a set: a key, or the keys between two, and its verdict in a verdict map.
type entry struct {
	from, to []byte // equal for a single key; nil: all keys
	ending   []byte
}

// entriesMax is how many elements of a set are read. Lists of addresses have hundreds of thousands, and rules are read again
// after each change of any rule.
const entriesMax = 4096

// entries reads a set, or its first elements if it has too many. In sets of intervals whose elements are not ranges themselves (as
// those of pipapo are), an element is where an interval begins, or where it has ended.
func (d *decoder) entries(set string) (all []entry, whole bool, err error) {
	attrs := netlink.AppendString(netlink.AppendString(nil, unix.NFTA_SET_ELEM_LIST_TABLE, d.table), unix.NFTA_SET_ELEM_LIST_SET, set)
	type edge struct {
		entry
		end bool
	}
	var edges []edge
	whole, intervals := true, d.sets[set].intervals
	err = d.conn.Walk(ruleset.Message(unix.NFT_MSG_GETSETELEM, d.family, unix.NLM_F_DUMP, attrs), func(o ruleset.Object) error {
		for _, e := range d.All(slices.Clone(o.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS))) {
			flags := d.Find(e, unix.NFTA_SET_ELEM_FLAGS)
			end := len(flags) == 4 && binary.BigEndian.Uint32(flags)&unix.NFT_SET_ELEM_INTERVAL_END != 0
			key := d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
			to := d.Find(e, ruleset.SetElemKeyEnd, unix.NFTA_DATA_VALUE)
			if to == nil {
				to = key
			} else {
				intervals = false // they are ranges in themselves
			}
			edges = append(edges, edge{entry{key, to, d.Find(e, unix.NFTA_SET_ELEM_DATA, unix.NFTA_DATA_VERDICT)}, end})
		}
		if err := d.Err(); err != nil || len(edges) <= entriesMax {
			return err
		}
		whole = false
		return netlink.ErrEnough
	})
	if err != nil {
		return nil, false, fmt.Errorf("elements of set %s: %w", set, err)
	}
	if !intervals {
		for _, e := range edges {
			all = append(all, e.entry)
		}
		return all, whole, nil
	}
	slices.SortStableFunc(edges, func(a, b edge) int { return bytes.Compare(a.from, b.from) })
	for i, e := range edges {
		if e.end || e.from == nil {
			if e.from == nil {
				all = append(all, e.entry)
			}
			continue
		}
		e.to = bytes.Repeat([]byte{0xff}, len(e.from))
		if i+1 < len(edges) {
			e.to = before(edges[i+1].from)
		}
		all = append(all, e.entry)
	}
	return all, whole, nil
}

// before returns the number before, in network order.
func before(b []byte) []byte {
	b = slices.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]--; b[i] != 0xff {
			break
		}
	}
	return b
}

// units returns the size of a field in a key of several, in units of 4 bytes.
func (d *decoder) units(f register) int {
	switch f {
	case outName, inName, outKind:
		return ifNameSize / 4
	case source, destination:
		if d.family == unix.NFPROTO_IPV6 {
			return 4
		}
	}
	return 1
}

// lookup reads a lookup in a set, or in a map of verdicts.
func (d *decoder) lookup(e expression) error {
	from := e.number(unix.NFTA_LOOKUP_SREG)
	verdicts := e.attr(unix.NFTA_LOOKUP_DREG) != nil && e.number(unix.NFTA_LOOKUP_DREG) == unix.NFT_REG_VERDICT
	inverted := e.number(unix.NFTA_LOOKUP_FLAGS)&unix.NFT_LOOKUP_F_INV != 0
	if err := d.inSet(e.text(unix.NFTA_LOOKUP_SET), unit(from), verdicts, inverted); err != nil {
		return err
	}
	if e.attr(unix.NFTA_LOOKUP_DREG) != nil {
		f := other
		for _, c := range d.keyOf(e.text(unix.NFTA_LOOKUP_SET), unit(from)) {
			f = computed(f, c.register)
		}
		d.put(e.number(unix.NFTA_LOOKUP_DREG), f, 4)
	}
	return nil
}

// inSet adds a match that is about the elements of a set, by a key that begins in a unit of registers; of a map of verdicts, a rule for
// each element.
func (d *decoder) inSet(name string, first int, verdicts, inverted bool) error {
	all := match{unmarked: maybe, passing: d.sets[name].passing} // what any of its elements is about
	all.byMark = all.passing                                     // another rule may have put it there
	for _, c := range d.keyOf(name, first) {
		all.byOut, all.byMark = all.byOut || c.byOut(), all.byMark || c.byMark()
	}
	if d.early && !verdicts && !all.byOut { // such sets grow with the AppVMs
		all.of = constant(maybe).of
		d.matches = append(d.matches, all)
		return nil
	}
	entries, whole, err := d.entries(name)
	if err != nil {
		return err
	}
	var keys []func(asked) answer
	// The element for all keys is about what no other one is about.
	slices.SortStableFunc(entries, func(a, b entry) int { return len(b.from) - len(a.from) })
	for _, e := range entries {
		m := d.key(first, e)
		if e.from == nil {
			m = all
			m.of = anyOf(slices.Clone(keys), whole)
			m = m.inverted()
		}
		if m.passing = all.passing; m.passing {
			m.of, m.byMark, m.unmarked = constant(maybe).of, true, maybe
		}
		all.byOut, all.byMark = all.byOut || m.byOut, all.byMark || m.byMark
		keys = append(keys, m.of)
		if verdicts {
			v, to := unsure, ""
			if e.ending != nil {
				v, to = d.endingOf(e.ending)
			}
			d.add(v, to, m)
		}
	}
	if all.of = anyOf(keys, whole); all.passing {
		all.of = constant(maybe).of
	}
	switch {
	case verdicts && (!whole || all.passing):
		all.of = constant(maybe).of
		d.add(dropped, "", all)
	case verdicts:
	case inverted:
		d.matches = append(d.matches, all.inverted())
	default:
		d.matches = append(d.matches, all)
	}
	return nil
}

// keyOf returns what the key of a set is made of, if it begins in a unit of registers.
func (d *decoder) keyOf(name string, first int) (fields []content) {
	end := first + max(1, int(d.sets[name].keyBytes+3)/4)
	for at := first; at < min(end, len(d.registers)); at += d.units(d.registers[at].register) {
		fields = append(fields, d.registers[at])
	}
	return fields
}

// anyOf reports whether a packet is one that any of the keys of a set is about.
func anyOf(keys []func(asked) answer, whole bool) func(asked) answer {
	return func(q asked) answer {
		best := never
		if !whole {
			best = maybe
		}
		for _, key := range keys {
			best = max(best, key(q))
		}
		return best
	}
}

// key reports whether an element of a set is about a packet. In a key of several fields, each takes whole units of 4 bytes.
func (d *decoder) key(first int, e entry) match {
	if e.from == nil {
		return constant(always)
	}
	whole := match{unmarked: maybe}
	all := []match{}
	for at := 0; at < len(e.from); {
		c := content{}
		if i := first + at/4; i < len(d.registers) {
			c = d.registers[i]
		}
		size := min(4*d.units(c.register), len(e.from)-at)
		if at == 0 && len(e.from) <= 4*d.units(c.register) || c.register == destination && at+16 <= len(e.from) && len(e.from) == 16 {
			size = len(e.from)
		}
		from, to := e.from[at:at+size], e.to[at:at+size]
		switch c.register {
		case destinationPort, etherType:
			from, to = from[:min(2, size)], to[:min(2, size)]
		case l4Protocol, ipVersion, outIPsec:
			from, to = from[:1], to[:1]
		}
		m := d.between(c, from, to)
		if bytes.Equal(from, to) {
			m = c.exactly(d.equals(c, from), from, from)
		}
		whole.byOut, whole.byMark = whole.byOut || m.byOut, whole.byMark || m.byMark
		all = append(all, m)
		at += size
	}
	whole.of = func(q asked) answer {
		a := always
		for _, m := range all {
			a = min(a, m.of(q))
		}
		return a
	}
	return whole
}
