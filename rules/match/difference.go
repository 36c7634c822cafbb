package match

import (
	"encoding/binary"
	"errors"
	"slices"

	"vifproxy/rules/expression"
)

const (
	// lineWorkMax is how many steps Beyond looks at for one line. A step takes some 10 ns, and 4 bytes at most.
	lineWorkMax = 1 << 20

	// differenceWorkMax is how many steps a Difference looks at for all its lines.
	differenceWorkMax = 1 << 23
)

// Why a Difference cannot say what a line has beyond a list.
var (
	ErrTooMuch = errors.New("its patterns allow too many combinations to compare them")
	ErrInexact = errors.New("only a real tinyproxy knows what it matches")
)

// A Difference finds texts that a line of one list matches and no line of another. It reads both automata at once, from the end of a
// text to its beginning, and comes to shorter texts first. It is not for use by several goroutines at once.
//
// The other list's next step is one of a set (the subset construction of Rabin and Scott). A search does not go on where it has
// been with a smaller set, because whatever is beyond this one is beyond that one too (the antichains of De Wulf, Doyen, Henzinger and
// Raskin, 2006).
type Difference struct {
	line    walker                        // goes through the line that is compared
	other   walker                        // goes through all lines of the other list
	open    [len(signs)][len(signs)]ahead // of the lines of the other list that match anywhere, by the signs before and after
	texts   Texts
	chars   []byte // one of all characters that neither list tells from one another
	subsets []subset
	known   map[string]int32 // where a subset is in subsets
	key     []byte           // of known, for the next look
	all     []stage          // of the search for one line
	been    map[string][]int32
	left    int // steps that may still be looked at, for all lines
	work    int // and for this one
}

// A subset is the steps of the other list that may come next, after a character of some sign.
type subset struct {
	steps []int32 // in order
	after sign
	ahead [len(signs)]*ahead // by the sign of the character before
	next  []int32            // by index into chars: where the subset that follows is in subsets, plus 1; 0 if not known yet
}

// ahead is what follows from steps without reading.
type ahead struct {
	matched bool
	waiting []int32          // steps that wait for a character
	read    map[byte][]int32 // those that follow when it is read, as far as they are known
}

// A stage is where a search has come to in a text.
type stage struct {
	steps   []int32 // of the line that may come next, in order
	matched bool    // the line matches, whatever comes before
	subset  int32
	last    byte // the character that was read last; 0 at the end of the text
	parent  int  // the stage before
}

// Texts are the texts that a Difference finds.
type Texts int

const (
	AllTexts Texts = iota

	// Names are texts of which all labels, between periods, are of letters, digits, hyphens, underscores and colons, in lower case where
	// case makes no difference. None ends with a period.
	Names

	// Hosts are Names, with or without a period at the end.
	Hosts
)

// Without returns the difference between two lists.
func (m *Matcher) Without(other *Matcher, texts Texts) *Difference {
	d := &Difference{texts: texts, known: map[string]int32{}, been: map[string][]int32{}, left: differenceWorkMax, line: newWalker(m), other: newWalker(other)}
	d.chars = distinct(slices.Concat(m.sets, other.sets), texts != AllTexts)
	var begin []int32
	for _, l := range other.lines {
		if l.first < l.end {
			d.other.begin(l, &begin)
		}
	}
	slices.Sort(begin)
	d.intern(begin, nothing)
	for _, before := range signs {
		for _, after := range signs {
			matched := d.other.follow(d.other.open, nil, before, after, &d.work)
			d.open[before][after] = ahead{matched, slices.Clone(d.other.waiting), map[byte][]int32{}}
		}
	}
	return d
}

// distinct returns one of all characters that no set tells from one another, those that people read with ease first.
func distinct(sets []expression.Charset, names bool) (chars []byte) {
	ranges := []string{"az", "09", "--", "__", "..", "AZ", "::"}
	if !names {
		ranges = append(ranges, " ~", "\x01\t", "\v\x1f", "\x7f\xff")
	}
	known := map[string]bool{}
	for _, r := range ranges {
		for c := int(r[0]); c <= int(r[1]); c++ {
			kind := make([]byte, 1+len(sets)/8+1)
			kind[0] = byte(signOf(byte(c)))
			if c == '.' {
				kind[0] = '.'
			}
			for i := range sets {
				if sets[i].Has(byte(c)) {
					kind[1+i/8] |= 1 << (i % 8)
				}
			}
			if !known[string(kind)] {
				known[string(kind)] = true
				chars = append(chars, byte(c))
			}
		}
	}
	return chars
}

// Beyond returns a shortest text that a line of the first list matches and no line of the other, or false if there is none. number is
// an index into the first list. After [ErrInexact] with a text, a line of the other list that is not exact may match it.
func (d *Difference) Beyond(number int) (text string, found bool, err error) {
	l := d.line.lines[number]
	if l.first == l.end {
		return "", false, ErrInexact
	}
	d.work = min(lineWorkMax, d.left)
	d.left -= d.work
	text, found = d.search(l)
	d.left += d.work
	switch {
	case d.work <= 0:
		return "", false, ErrTooMuch
	case found && !d.other.Exact():
		return text, true, ErrInexact
	}
	return text, found, nil
}

func (d *Difference) search(l line) (text string, found bool) {
	var begin stage
	d.line.open = nil
	d.line.begin(l, &begin.steps)
	d.all = append(d.all[:0], begin)
	clear(d.been)
	all, been := d.all, d.been
	defer func() { d.all = all }()
	var key []byte
	var matched [nothing]bool
	var waiting [nothing][]int32
	var read [nothing]expression.Charset // what these wait for
	for i := 0; i < len(all) && d.work > 0; i++ {
		at := all[i]
		if (d.texts == AllTexts || at.last != 0 && at.last != '.') && d.matched(at, nothing) && !d.ahead(at.subset, nothing).matched {
			var text []byte
			for ; i > 0; i = all[i].parent {
				text = append(text, all[i].last)
			}
			return string(text), d.work > 0
		}
		for before := range nothing {
			matched[before] = d.matched(at, before)
			waiting[before] = append(waiting[before][:0], d.line.waiting...)
			read[before] = d.line.awaited(waiting[before])
		}
		for number, c := range d.chars {
			if c == '.' && (d.texts != AllTexts && at.last == '.' || d.texts == Names && at.last == 0) {
				continue
			}
			before := signOf(c)
			if !matched[before] && len(d.line.open) == 0 && !read[before].Has(c) { // most characters, in most lines
				continue
			}
			next := stage{matched: matched[before], last: c, parent: i}
			if !next.matched {
				next.steps = d.line.read(waiting[before], c)
			}
			if d.ahead(at.subset, before).matched {
				continue
			}
			d.work -= 1 + len(next.steps)
			key = next.key(key[:0], before)
			here := been[string(key)]
			if slices.ContainsFunc(here, func(s int32) bool { return len(d.subsets[s].steps) == 0 }) {
				continue
			}
			next.subset = d.next(at.subset, number)
			if !slices.ContainsFunc(here, func(s int32) bool { return d.within(s, next.subset) }) {
				been[string(key)] = append(here, next.subset)
				next.steps = slices.Clone(next.steps)
				all = append(all, next)
			}
		}
	}
	return "", false
}

// matched reports whether the line matches at a stage, before a character of some sign. If it does not, d.line.waiting are the steps that
// wait for this character.
func (d *Difference) matched(at stage, before sign) bool {
	return at.matched || d.line.follow(d.line.open, at.steps, before, d.subsets[at.subset].after, &d.work)
}

// ahead returns what follows from a subset before a character of some sign.
func (d *Difference) ahead(number int32, before sign) *ahead {
	s := &d.subsets[number]
	if s.ahead[before] == nil {
		matched := d.other.follow(nil, s.steps, before, s.after, &d.work) || d.open[before][s.after].matched
		s.ahead[before] = &ahead{matched: matched, waiting: slices.Clone(d.other.waiting)}
	}
	return s.ahead[before]
}

// next returns the subset that follows when a character is read.
func (d *Difference) next(number int32, char int) int32 {
	c := d.chars[char]
	waiting := d.ahead(number, signOf(c)).waiting
	if d.subsets[number].next == nil {
		d.subsets[number].next = make([]int32, len(d.chars))
	}
	if d.subsets[number].next[char] == 0 {
		open := &d.open[signOf(c)][d.subsets[number].after]
		if _, known := open.read[c]; !known {
			d.work -= len(open.waiting)
			open.read[c] = slices.Clone(d.other.read(open.waiting, c))
		}
		d.work -= len(waiting) + len(open.read[c])
		steps := sorted(append(d.other.read(waiting, c), open.read[c]...))
		next := d.intern(steps, signOf(c))
		d.subsets[number].next[char] = next + 1
	}
	return d.subsets[number].next[char] - 1
}

// intern returns where a subset is in subsets.
func (d *Difference) intern(steps []int32, after sign) int32 {
	d.key = pack(append(d.key[:0], byte(after)), steps)
	number, ok := d.known[string(d.key)]
	if !ok {
		number = int32(len(d.subsets))
		d.known[string(d.key)], d.subsets = number, append(d.subsets, subset{steps: slices.Clone(steps), after: after})
	}
	return number
}

// within reports whether a subset has no step that the other one does not have.
func (d *Difference) within(small, large int32) bool {
	if small == large {
		return true
	}
	rest := d.subsets[large].steps
	for _, i := range d.subsets[small].steps {
		d.work--
		at, ok := slices.BinarySearch(rest, i)
		if !ok {
			return false
		}
		rest = rest[at+1:]
	}
	return true
}

// key appends what is the same for stages that differ in their subset alone. after is the sign of what was read last.
func (at stage) key(key []byte, after sign) []byte {
	flags := byte(after)
	if at.last == '.' {
		flags |= 1 << 6
	}
	if at.matched {
		flags |= 1 << 7
	}
	return pack(append(key, flags), at.steps)
}

func pack(key []byte, steps []int32) []byte {
	for _, i := range steps {
		key = binary.NativeEndian.AppendUint32(key, uint32(i))
	}
	return key
}

// A walker goes through lines of a list.
type walker struct {
	*Matcher
	open    []int32 // the first steps of lines that match anywhere in a text
	waiting []int32 // result of follow
	next    []int32 // result of read
	reached []uint32
	turn    uint32
	stack   []int32
}

func newWalker(m *Matcher) walker { return walker{Matcher: m, reached: make([]uint32, len(m.steps))} }

// begin adds the first step of a line, to those that may come next at the end of a text or to those that may come next anywhere.
func (w *walker) begin(l line, steps *[]int32) {
	if l.anchored {
		*steps = append(*steps, l.start)
	} else {
		w.open = append(w.open, l.start)
	}
}

// follow reports whether a line matches between two characters of these signs, after steps that may come next. If none does, w.waiting
// are the steps that wait for the character before. follow counts the steps that it looks at.
func (w *walker) follow(open, steps []int32, before, after sign, count *int) bool {
	w.waiting = w.waiting[:0]
	w.turn++
	w.stack = append(append(w.stack[:0], open...), steps...)
	for len(w.stack) > 0 {
		i := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		if w.reached[i] == w.turn {
			continue
		}
		w.reached[i] = w.turn
		*count--
		switch t := w.steps[i]; t.kind {
		case accept:
			return true
		case eat:
			w.waiting = append(w.waiting, i)
		case fork:
			w.stack = append(w.stack, t.next, t.arg)
		default:
			if t.kind.holds(before, after) {
				w.stack = append(w.stack, t.next)
			}
		}
	}
	return false
}

// awaited returns the characters that any of some steps reads.
func (w *walker) awaited(waiting []int32) (all expression.Charset) {
	for _, i := range waiting {
		for word, bits := range w.sets[w.steps[i].arg] {
			all[word] |= bits
		}
	}
	return all
}

// read returns the steps that follow those of the waiting ones that read a character, in order, until it is called again.
func (w *walker) read(waiting []int32, c byte) []int32 {
	w.next = w.next[:0]
	for _, i := range waiting {
		if t := w.steps[i]; w.sets[t.arg].Has(c) {
			w.next = append(w.next, t.next)
		}
	}
	w.next = sorted(w.next)
	return w.next
}

// sorted sorts steps in place, and returns each of them once.
func sorted(steps []int32) []int32 {
	slices.Sort(steps)
	return slices.Compact(steps)
}
