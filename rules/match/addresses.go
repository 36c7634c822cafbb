package match

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/rules/expression"
)

// Addresses looks at searchMax states of texts for a list, and at searchLine more for each of its lines. One takes about a microsecond.
const (
	searchMax  = 1 << 14
	searchLine = 16
)

// numerals are the characters of numbers, in lower case.
const numerals = "0123456789abcdefx."

// Addresses returns the addresses that a list permits by number: those that getaddrinfo(3) makes of a text without asking a name
// server. If there may be more than most, endless is the first line because of which; otherwise it is -1. With a default that allows,
// endless is 0 at once.
//
// It is for lines as tinyproxy gets them in a white list of hosts. Such a line matches whole texts, and has colons only if it is one
// address of IPv6. None has a '%', so that there are no zones. Of other lines it may say that they are endless.
func Addresses(lines []string, syntax expression.Syntax, most int) (all []netip.Addr, endless int) {
	if syntax.DefaultAllow {
		return nil, 0
	}
	found := map[netip.Addr]bool{}
	var numeric []string
	var which []int
	for i, line := range lines {
		if addr, ok := literalOf(line); ok {
			if found[addr] = true; len(found) > most {
				return nil, i
			}
		} else if !endsInName(line) {
			numeric, which = append(numeric, line), append(which, i)
		}
	}
	m := New(numeric, syntax)
	if len(m.inexact) > 0 {
		return nil, which[m.inexact[0].Line]
	}
	s := search{run: newRun(m, ""), found: found, most: most, work: searchMax + searchLine*len(m.lines)}
	for i, l := range m.lines {
		if l.first < l.end && !s.line(l) {
			return nil, which[i]
		}
	}
	return slices.SortedFunc(maps.Keys(found), netip.Addr.Compare), -1
}

// endsInName reports whether it can be seen at once that what a line matches ends in a label that begins with a letter, as the last part
// of a number does not. Most lines are like that: ^bank\.example$, and what is made of a domain.
func endsInName(line string) bool {
	text, ok := strings.CutSuffix(line, "$")
	text = strings.TrimSuffix(text, `\.?`) // which `#: format domains` adds
	i := strings.LastIndex(text, `\.`)
	if !ok || i < 0 || strings.Contains(text, "|") {
		return false
	}
	label := text[i+len(`\.`):]
	isLetter := func(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
	return len(label) > 0 && isLetter(label[0]) && !strings.ContainsAny(label, `\^$*+?(){}[].`)
}

// literalOf returns the address of IPv6 that a compiled line is; false if it is none.
func literalOf(line string) (addr netip.Addr, ok bool) {
	if !strings.Contains(line, ":") {
		return addr, false
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(line, "^"), "$"), `\.`, "."))
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// A search looks for all numbers that lines match. Like any run it reads from the end of a text to its beginning, and tries each
// character with which a number can go on.
type search struct {
	*run
	found map[netip.Addr]bool
	most  int
	work  int // left
}

// A spot is where the search has come to in a text.
type spot struct {
	steps []int32 // that come next, in order
	after byte    // the character that was read last; 0 at the end of the text
	read  number
}

// A spotKey is a spot that can be compared.
type spotKey struct {
	steps string
	after byte
	read  number
}

func (s spot) key() spotKey {
	steps := make([]byte, 0, 4*len(s.steps))
	for _, i := range s.steps {
		steps = binary.NativeEndian.AppendUint32(steps, uint32(i))
	}
	return spotKey{string(steps), s.after, s.read}
}

// numeric reports whether a line may match a text that has no other characters than numerals. Hardly any line does, and this takes a
// thousandth of the time that the search takes.
func (s *search) numeric(l line) bool {
	s.now.clear()
	for todo := []int32{l.start}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s.now.reached[i-l.first] == s.now.turn {
			continue
		}
		s.now.reached[i-l.first] = s.now.turn
		switch t := s.steps[i]; t.kind {
		case accept:
			return true
		case eat:
			if slices.ContainsFunc([]byte(numerals), func(c byte) bool { return s.eats(i, c) }) {
				todo = append(todo, t.next)
			}
		case fork:
			todo = append(todo, t.next, t.arg)
		default:
			todo = append(todo, t.next)
		}
	}
	return false
}

// line finds the addresses that one line matches. It reports false if that is too much.
func (s *search) line(l line) bool {
	if !s.numeric(l) {
		return true
	}
	begin := spot{steps: []int32{l.start}}
	ends := s.ends(l, begin.read)
	if len(ends) == 0 {
		return s.work > 0
	}
	if !l.anchored {
		return false
	}
	seen := map[spotKey]bool{}
	for todo := []spot{begin}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if addr, ok := at.read.addr(); ok && s.arrive(l, at, 0) {
			if s.found[addr] = true; len(s.found) > s.most {
				return false
			}
		}
		for _, c := range []byte(numerals) {
			next, ok := at.read.next(c)
			if !ok {
				continue
			}
			if s.work--; s.work <= 0 || s.arrive(l, at, c) { // it matches whatever comes before c
				return false
			}
			n := spot{after: c, read: next}
			for _, i := range s.now.waiting {
				if to := s.steps[i].next; s.eats(i, c) && ends[place{to, next.shape()}] {
					n.steps = append(n.steps, to)
				}
			}
			slices.Sort(n.steps)
			n.steps = slices.Compact(n.steps)
			if key := n.key(); len(n.steps) > 0 && !seen[key] {
				seen[key] = true
				todo = append(todo, n)
			}
		}
	}
	return true
}

// eats reports whether a step reads a character, in lower or upper case.
func (s *search) eats(i int32, c byte) bool {
	set := &s.sets[s.steps[i].arg]
	return set.Has(c) || 'a' <= c && c <= 'x' && set.Has(c-'a'+'A')
}

// arrive has s.now.waiting be the steps that wait at a spot for the character before; 0 is the beginning of the text. It reports whether
// the line matches there.
func (s *search) arrive(l line, at spot, before byte) bool {
	s.text = strings.Trim(string([]byte{before, at.after}), "\x00")
	boundary := min(int(before), 1)
	s.now.clear()
	for _, i := range at.steps {
		if s.reach(&s.now, l, i, boundary) {
			return true
		}
	}
	return false
}

// A place is a step that comes next after a part of a number.
type place struct {
	step int32
	read number // its shape
}

// ends returns the places from which a number can be matched to its beginning, whatever its values are. Without it, the search would
// try all numbers with a line such as [a-z0-9.]*bank[a-z0-9.]*.
func (s *search) ends(l line, begin number) (ends map[place]bool) {
	var all []place
	var before [][]int // the places that lead to each, as indexes
	known := map[place]int{}
	add := func(p place) int {
		i, ok := known[p]
		if !ok {
			i = len(all)
			known[p], all, before = i, append(all, p), append(before, nil)
		}
		return i
	}
	add(place{l.start, begin.shape()})
	var arrived []int
	for i := 0; i < len(all); i++ {
		if s.work--; s.work <= 0 {
			return nil
		}
		p := all[i]
		waiting, anywhere, atBegin := s.ahead(p.step)
		if _, complete := p.read.part(); anywhere || atBegin && complete {
			arrived = append(arrived, i)
		}
		for _, c := range []byte(numerals) {
			next, ok := p.read.next(c)
			for _, w := range waiting {
				if ok && s.eats(w, c) {
					to := add(place{s.steps[w].next, next.shape()})
					before[to] = append(before[to], i)
				}
			}
		}
	}
	ends = map[place]bool{}
	for len(arrived) > 0 {
		i := arrived[len(arrived)-1]
		arrived = arrived[:len(arrived)-1]
		if !ends[all[i]] {
			ends[all[i]] = true
			arrived = append(arrived, before[i]...)
		}
	}
	return ends
}

// ahead returns the steps that a step leads to if assertions are let pass: those that wait for a character, and whether the line
// matches then, anywhere or at the beginning of the text.
func (s *search) ahead(first int32) (waiting []int32, anywhere, begin bool) {
	s.now.clear()
	type way struct {
		step  int32
		begun bool // it came by an assertion that this is the beginning
	}
	seen := map[way]bool{}
	for todo := []way{{step: first}}; len(todo) > 0; {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[w] {
			continue
		}
		seen[w] = true
		switch t := s.steps[w.step]; t.kind {
		case accept:
			anywhere, begin = anywhere || !w.begun, begin || w.begun
		case eat:
			if !w.begun {
				waiting = append(waiting, w.step)
			}
		case fork:
			todo = append(todo, way{t.next, w.begun}, way{t.arg, w.begun})
		default:
			todo = append(todo, way{t.next, w.begun || t.kind == atBegin})
		}
	}
	return waiting, anywhere, begin
}
