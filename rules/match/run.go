package match

// A run is the reading of one text, from its end to its beginning.
type run struct {
	*Matcher
	text     string
	now, new states
	stack    []int32
}

// states are the steps of one line that wait for a character, and those that have been reached.
type states struct {
	waiting []int32  // steps that eat
	reached []uint32 // by step of the line: the turn in which it was reached last
	turn    uint32
}

func (s *states) clear() { s.waiting, s.turn = s.waiting[:0], s.turn+1 }

func newRun(m *Matcher, text string) *run {
	reached := make([]uint32, 2*m.longest)
	return &run{Matcher: m, text: text, now: states{reached: reached[:m.longest]}, new: states{reached: reached[m.longest:]}}
}

// matches reports whether a line matches the text.
func (r *run) matches(l line) bool {
	if l.first == l.end {
		return false
	}
	r.now.clear()
	for at := len(r.text); ; at-- {
		if (at == len(r.text) || !l.anchored) && r.reach(&r.now, l, l.start, at) {
			return true
		}
		if at == 0 || l.anchored && len(r.now.waiting) == 0 {
			return false
		}
		r.new.clear()
		for _, i := range r.now.waiting {
			if s := r.steps[i]; r.sets[s.arg].Has(r.text[at-1]) && r.reach(&r.new, l, s.next, at-1) {
				return true
			}
		}
		r.now, r.new = r.new, r.now
	}
}

// reach adds to the states what is reached by a step without reading. It reports whether the line matches.
func (r *run) reach(to *states, l line, first int32, at int) bool {
	r.stack = append(r.stack[:0], first)
	for len(r.stack) > 0 {
		i := r.stack[len(r.stack)-1]
		r.stack = r.stack[:len(r.stack)-1]
		if to.reached[i-l.first] == to.turn {
			continue
		}
		to.reached[i-l.first] = to.turn
		switch s := r.steps[i]; s.kind {
		case accept:
			return true
		case eat:
			to.waiting = append(to.waiting, i)
		case fork:
			r.stack = append(r.stack, s.next, s.arg)
		default:
			if s.kind.holds(r.sign(at-1), r.sign(at)) {
				r.stack = append(r.stack, s.next)
			}
		}
	}
	return false
}

// A sign is what an assertion can tell of a character.
type sign byte

const (
	inWord  sign = iota // it belongs to a word
	outside             // it does not
	nothing             // there is none: the text begins or ends here
)

// signs are all of them.
var signs = [...]sign{inWord, outside, nothing}

// sign returns that of the byte of the text at an index.
func (r *run) sign(at int) sign {
	if at < 0 || at == len(r.text) {
		return nothing
	}
	return signOf(r.text[at])
}

// holds reports whether an assertion holds between two characters.
func (k kind) holds(before, after sign) bool {
	switch k {
	case atBegin:
		return before == nothing
	case atEnd:
		return after == nothing
	case wordStart:
		return before != inWord && after == inWord
	case wordEnd:
		return before == inWord && after != inWord
	case atWordEdge:
		return (before == inWord) != (after == inWord)
	}
	return (before == inWord) == (after == inWord) // offWordEdge
}

// signOf says whether a byte belongs to a word (IS_WORD_CHAR in posix/regex_internal.h of glibc 2.36, in the C locale).
func signOf(c byte) sign {
	if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' {
		return inWord
	}
	return outside
}
