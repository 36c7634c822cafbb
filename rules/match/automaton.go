package match

import (
	"slices"

	"vifproxy/rules/expression"
)

// The automaton is Thompson's: a line is steps, and a text is read once, byte by byte, with the set of steps that are possible. So the
// time is linear in the length of the text, whatever the pattern is. The text is read from its end to its beginning: lines for different
// domains differ there, so that most lines are done with after one byte.

const (
	// lineStepsMax is how many steps a line may have. A line has 511 bytes, so that only repetitions that are written out make more.
	lineStepsMax = 8192

	// stepsMax is how many steps all lines of a list may have. One step takes 12 bytes. The usual list of 1 MiB has half as many.
	stepsMax = 1 << 21

	// setsMax is how many different sets of characters all lines may have. One takes 32 bytes.
	setsMax = 4096
)

// A step is one state of the automaton.
type step struct {
	kind kind
	next int32 // the step that follows
	arg  int32 // of eat: index into the sets; of fork: the other step that follows
}

// A kind is what a step does.
type kind byte

const (
	accept      kind = iota // the line matches
	eat                     // reads one character of a set
	fork                    // goes on in two ways
	atBegin                 // and all that follow are assertions
	atEnd                   //
	wordStart               // \<
	wordEnd                 // \>
	atWordEdge              // \b
	offWordEdge             // \B
)

var assertions = map[string]kind{"^": atBegin, "\\`": atBegin, "$": atEnd, `\'`: atEnd,
	`\<`: wordStart, `\>`: wordEnd, `\b`: atWordEdge, `\B`: offWordEdge}

// A compiler makes lines of trees.
type compiler struct {
	*Matcher
	known map[expression.Charset]int32 // where in sets
	room  int                          // for steps, of the line that is compiled
}

// line compiles one line, and reports whether there was room for it.
func (c *compiler) line(l *line, tree expression.Expression) bool {
	l.first = int32(len(c.steps))
	c.room = min(lineStepsMax, stepsMax-len(c.steps))
	l.start = c.expression(tree, c.add(step{kind: accept}))
	l.end = int32(len(c.steps))
	l.anchored = !slices.ContainsFunc(tree, func(b expression.Branch) bool { return !b.Ends() })
	if c.room <= 0 {
		c.steps = c.steps[:l.first]
		*l = line{}
		return false
	}
	c.longest = max(c.longest, int(l.end-l.first))
	return true
}

// add returns a new step. Without room it returns one that exists, and the line is given up.
func (c *compiler) add(s step) int32 {
	if c.room <= 0 {
		return 0
	}
	c.room--
	c.steps = append(c.steps, s)
	return int32(len(c.steps) - 1)
}

// expression returns the first step of an expression that next follows, and so do those below.
func (c *compiler) expression(e expression.Expression, next int32) int32 {
	start := c.branch(e[len(e)-1], next)
	for _, b := range slices.Backward(e[:len(e)-1]) {
		start = c.add(step{fork, c.branch(b, next), start})
	}
	return start
}

func (c *compiler) branch(b expression.Branch, next int32) int32 {
	for _, p := range b { // the last piece is the first step
		next = c.piece(p, next)
	}
	return next
}

func (c *compiler) piece(p expression.Piece, next int32) int32 {
	if kind, ok := assertions[p.Assertion]; ok {
		return c.add(step{kind: kind, next: next})
	}
	least := p.Min
	if p.Max < 0 {
		loop := c.add(step{kind: fork, arg: next})
		body := c.once(p, loop)
		if c.room <= 0 {
			return next
		}
		c.steps[loop].next = body
		if next = loop; least > 0 { // the repetition without end is one of those that have to be
			next, least = body, least-1
		}
	}
	for i := least; i < p.Max && c.room > 0; i++ {
		next = c.add(step{fork, c.once(p, next), next})
	}
	for i := 0; i < least && c.room > 0; i++ {
		next = c.once(p, next)
	}
	return next
}

// once returns the first step of a piece that is not repeated.
func (c *compiler) once(p expression.Piece, next int32) int32 {
	if p.Group != nil {
		return c.expression(*p.Group, next)
	}
	set, ok := c.known[p.Set]
	if !ok && len(c.sets) == setsMax {
		c.room = 0
	} else if !ok {
		set = int32(len(c.sets))
		c.sets, c.known[p.Set] = append(c.sets, p.Set), set
	}
	return c.add(step{eat, next, set})
}
