// Package model is what tests know of what should be. From the inputs alone it says which hosts each AppVM may reach and must reach, what
// `show` has to say, and what is remembered of an AppVM as its last good rules. It does no I/O, and it has no idea of how vifproxyd does
// that. The simulation and the chaos run tell it what happens and what they see, as events; a journal of events can be replayed.
//
// When the daemon reads an input is the daemon's own affair. So between two rests an input has a window of values that may have been
// read, in any combination with those of other inputs. What is certain at a rest is exact.
package model

import (
	"fmt"
	"slices"
	"strings"
)

// Hosts is a set of what lines permit, a bit each. What a bit means is for the test to say.
type Hosts uint16

// Has reports whether a bit is set.
func (h Hosts) Has(i int) bool { return h>>i&1 == 1 }

// String returns a letter for each bit: "a" is the first.
func (h Hosts) String() string {
	text, _ := h.MarshalText()
	return "{" + string(text) + "}"
}

// MarshalText implements encoding.TextMarshaler.
func (h Hosts) MarshalText() (text []byte, _ error) {
	for i := range 16 {
		if h.Has(i) {
			text = append(text, byte('a'+i))
		}
	}
	return text, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hosts) UnmarshalText(text []byte) error {
	*h = 0
	for _, letter := range text {
		if letter < 'a' || letter > 'p' {
			return fmt.Errorf("%q is no set of hosts", text)
		}
		*h |= 1 << (letter - 'a')
	}
	return nil
}

// Kind says what is to be made of a list, of the template, or of the ceiling.
type Kind int

const (
	Absent  Kind = iota
	Good         // a template that is absent is good too: the built-in one
	Misread      // vifproxyd's own reading refuses it
	Misrun       // tinyproxy refuses it
)

var kinds = []string{"absent", "good", "misread", "misrun"}

func (k Kind) String() string { return kinds[k] }

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(kinds[k]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kinds, string(text))
	if i < 0 {
		return fmt.Errorf("%q is no kind", text)
	}
	*k = Kind(i)
	return nil
}

// A List is a list, a template or a ceiling.
type List struct {
	Kind     Kind   `json:"kind"`
	Lines    Hosts  `json:"permits,omitempty"`  // a list's: what its lines match
	Open     bool   `json:"open,omitempty"`     // a template's: what no line matches is permitted, and not the other way round
	Includes bool   `json:"includes,omitempty"` // a rule file's: the shared list, see With; then Lines are those of its own
	Text     string `json:"text,omitempty"`
	From     Source `json:"-"` // of the list that counts
}

// Under returns what comes of a list under a template.
func (l List) Under(template List) Policy {
	if template.Open {
		return Policy{true, template.Lines &^ l.Lines}
	}
	return Policy{true, l.Lines}
}

// With returns what a rule file says with the list that it includes.
func (l List) With(shared List) List {
	switch {
	case !l.Includes:
	case shared.Kind == Good || shared.Kind == Misrun && l.Kind == Good:
		l.Lines |= shared.Lines
		l.Kind = max(l.Kind, shared.Kind)
	default:
		l.Kind = Misread
	}
	return l
}

// clashes reports whether a list cannot be used with a template: a list of dom0 permits what it names.
func (l List) clashes(template List) bool { return l.From != InFiles && template.Open }

// head returns the directives of a list: what it says of all its lines.
func (l List) head() (head string) {
	for line := range strings.Lines(l.Text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#: ") && !strings.HasPrefix(line, "#: include ") {
			head += line + "\n"
		}
	}
	return head
}

// A Policy is what an AppVM's proxy permits.
type Policy struct {
	Served  bool  `json:"served"`
	Permits Hosts `json:"permits"`
}

// Nothing is that there is no proxy.
var Nothing = Policy{}

func (p Policy) String() string {
	if p == Nothing {
		return "no proxy"
	}
	return p.Permits.String()
}

// below returns what is left of a policy below a ceiling.
func (p Policy) below(ceiling List) Policy {
	if p != Nothing && ceiling.Kind == Good {
		p.Permits &= ceiling.Lines
	}
	return p
}
