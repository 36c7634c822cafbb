package match

import (
	"math/bits"
	"slices"
	"strings"

	"vifproxy/rules/expression"
)

// An index finds the lines that may match a text by how it ends. A period at the end is left out, because a line of `format domains`
// leaves it to the client (\.?$). Of a list of ten thousand names, each of which ends differently, a
// name is compared with one or two.
type index struct {
	lines   map[string][]int32 // by what all texts that match end with, in lower case; "" of the lines for which nothing is known
	longest int                // of these ends, in bytes
}

// add enters a line.
func (x *index) add(number int, end string) {
	if x.lines == nil {
		x.lines = map[string][]int32{}
	}
	x.lines[end] = append(x.lines[end], int32(number))
	x.longest = max(x.longest, len(end))
}

// of returns the lines that may match a text, in their order.
func (x *index) of(text string) (all []int32) {
	text = strings.TrimSuffix(text, ".")
	last := make([]byte, min(len(text), x.longest))
	for i := range last {
		last[i] = lower(text[len(text)-len(last)+i])
	}
	for from := range len(last) + 1 {
		all = append(all, x.lines[string(last[from:])]...)
	}
	slices.Sort(all)
	return all
}

// end returns what all texts end with that a line matches, in lower case, if a period at their end is left out.
func (m *Matcher) end(l line) string {
	if !l.anchored {
		return ""
	}
	at := l.start
	if s := m.steps[at]; s.kind == atEnd {
		at = s.next
	}
	optional := false // a period at the end
	if s := m.steps[at]; s.kind == fork && m.steps[s.next].kind == eat && m.steps[s.next].next == s.arg {
		if c, ok := only(&m.sets[m.steps[s.next].arg]); ok && c == '.' {
			at, optional = s.arg, true
		}
	}
	var turned []byte
	for s := m.steps[at]; s.kind == eat; s = m.steps[s.next] {
		c, ok := only(&m.sets[s.arg])
		if !ok {
			break
		}
		turned = append(turned, c)
	}
	slices.Reverse(turned)
	end := string(turned)
	without := strings.TrimSuffix(end, ".")
	if optional && without != end { // one that ends with two periods ends with this, and one with a single period does not
		return ""
	}
	return without
}

// only returns the byte that is the only one of a set, or the lower case of a letter of which the set has both cases and nothing else.
func only(s *expression.Charset) (c byte, ok bool) {
	count, first := 0, 0
	for i, word := range slices.Backward(s[:]) {
		if count += bits.OnesCount64(word); word != 0 {
			first = 64*i + bits.TrailingZeros64(word)
		}
	}
	c = lower(byte(first))
	return c, count == 1 || count == 2 && c != byte(first) && s.Has(c)
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}
