// Package forward reads the chains of other programs: by which interfaces they do not forward what AppVMs send, and which of their
// rules stop proxies. read.go and legacy.go read chains, rule.go and set.go understand them, judge.go and obstacles.go follow a
// packet through them.
//
// Concurrency: several goroutines may use a Reader, and call LinksChanged while it reads. Obstacles are values.
package forward

import (
	"fmt"
	"slices"
	"strings"

	"vifproxy/firewall"
)

const (
	jumpsMax = 16      // NFT_JUMP_STACK_SIZE of the kernel
	stepsMax = 100_000 // for one interface: rules that are looked at, in all chains
)

// A link is an interface as rules know it. No rule names the zero link.
type link struct {
	name         string
	kind         string // such as "wireguard"
	index, group uint32 // index 0: it is not there
}

// An answer says whether a rule's match is true of what AppVMs send to public addresses, for the web and DNS.
type answer int

const (
	never answer = iota
	maybe
	always
)

func (a answer) not() answer { return always - a }

func whether(b bool) answer {
	if b {
		return always
	}
	return never
}

// asked is the packet that a match is about: of an AppVM, leaving by out.
type asked struct {
	out     link
	six     bool
	vifs    []link // by which it may come, as far as they are known
	uplinks []link // all others
	all     []link // by which it may leave
	marks   bool   // some rule sets a mark
	fresh   bool   // it begins a connection

	packet *packet // if all is known of the packet; then the match is about that, and nothing else
}

// A match is one condition of a rule.
type match struct {
	byOut    bool   // it is about the interface by which a packet leaves
	byMark   bool   // it is about a mark that a rule may have set by that interface
	passing  bool   // it looks into a set that changes without a change of the ruleset
	unmarked answer // of a packet without a mark, if it is byMark
	of       func(asked) answer
}

type ending int

const (
	goOn ending = iota
	dropped
	accepted
	returns // to the chain that led here; in a base chain, to its policy
	jumps
	leaps  // goto
	unsure // another program decides, or the kernel answers instead
)

// rule is what a rule comes to.
type rule struct {
	place   string
	matches []match
	ending  ending
	to      string // chain that it leads to
	marks   bool   // it sets a mark
}

// chain is a chain of one table; base chains have a hook.
type chain struct {
	place    string
	hook     bool   // it is a base chain that is asked
	nat      bool   // and of type nat
	policy   ending // of a base chain
	families []bool // whether of IPv6, for each family of a base chain
	rules    []rule
	table    map[string]*chain // its neighbours
	number   uint32            // of the hook
	priority int32
	out      []string // names that its rules have for the interface by which packets leave
	read     bool     // its rules have been read
}

// A marking says whose mark may depend on the interface by which a packet leaves.
type marking struct{ here, elsewhere bool } // that of the packet that is asked about; of one that leaves by another interface

// judge returns the rule of the base chain that bars an interface; "" if none does. marked is what rules before have set.
func (c *chain) judge(q asked, marked *marking) (bar string) {
	for _, six := range c.families {
		q.six = six
		w := &walk{asked: q, nat: c.nat, neighbours: c.table, marked: *marked}
		falls := w.chain(c, 0, false)
		*marked = w.marked
		if falls && c.policy == dropped && w.escape && w.bar == "" {
			w.bar = c.place + ", its policy"
		}
		if w.steps > stepsMax && c.asks() {
			w.bar = c.place + ", which has too many rules to be understood"
		}
		if w.bar != "" {
			return w.bar
		}
	}
	return ""
}

// asks reports whether a rule of the chain's table asks for the interface by which packets leave.
func (c *chain) asks() bool {
	for _, neighbour := range c.table {
		for _, r := range neighbour.rules {
			if slices.ContainsFunc(r.matches, func(m match) bool { return m.byOut }) {
				return true
			}
		}
	}
	return false
}

// A walk is the way of a packet through the chains.
type walk struct {
	asked
	nat        bool // the base chain is of type nat
	neighbours map[string]*chain
	steps      int
	escape     bool // what leaves by another interface may be spared what follows: from here on, what drops does so by interface
	marked     marking
	bar        string // the rule that drops the packet because of its interface
}

// chain follows the rules of a chain, and reports whether the packet may come back from there. byOut means that the way there has
// asked for the interface.
func (w *walk) chain(c *chain, depth int, byOut bool) (falls bool) {
	if depth > jumpsMax {
		return true
	}
	for _, r := range c.rules {
		if w.steps++; w.steps > stepsMax || w.bar != "" {
			return false
		}
		matches, byThis := w.matches(r)
		if matches == never {
			continue
		}
		certain, byOut := matches == always, byOut || byThis
		w.marked.here = w.marked.here || r.marks && byOut
		switch r.ending {
		case dropped:
			if byOut || w.escape {
				w.bar = r.place
			}
			if certain || w.bar != "" {
				return falls
			}
		case unsure:
			if byOut || w.escape {
				w.bar = r.place
				return falls
			}
		case accepted:
			if certain {
				return falls
			}
		case returns: // by another interface, a packet goes on here
			falls, w.escape = true, w.escape || byOut
			if certain {
				return true
			}
		case jumps, leaps:
			next := c.table[r.to]
			if next == nil {
				continue
			}
			back := w.chain(next, depth+1, byOut)
			if back && r.ending == leaps {
				falls, w.escape = true, w.escape || byOut
			}
			if certain && (!back || r.ending == leaps) {
				return falls
			}
		}
	}
	return true
}

// matches reports whether a rule is about the packet, and whether it asks for the interface.
func (w *walk) matches(r rule) (all answer, byOut bool) {
	all = always
	elsewhere := false // it may be about another interface, and not about this one
	for _, m := range r.matches {
		if w.nat && !w.marks && m.byMark && m.unmarked == never { // as VPNs drop what they have marked of this VM's own
			return never, false
		}
		a := m.of(w.asked)
		byOut = byOut || m.byOut
		elsewhere = elsewhere || m.byOut && (a == never || a == maybe && (m.passing || w.another(m)))
		if m.byMark {
			byOut = byOut || w.marked.here || w.marked.elsewhere && m.unmarked != never
			elsewhere = elsewhere || w.marked.elsewhere && m.unmarked != always
		}
		all = min(all, a)
	}
	if elsewhere && w.begins(r) {
		w.marked.elsewhere = w.marked.elsewhere || r.marks
		w.escape = w.escape || w.lets(r, 0)
	}
	return all, byOut
}

// another reports whether a match may be about a packet that leaves by another interface.
func (w *walk) another(m match) bool {
	q := w.asked
	return slices.ContainsFunc(w.all, func(l link) bool {
		q.out = l
		return l != w.out && m.of(q) != never
	})
}

// begins reports whether a rule may be about a packet that begins a connection and leaves by the interface that the rule asks for.
func (w *walk) begins(r rule) bool {
	q := w.asked
	q.fresh = true
	return !slices.ContainsFunc(r.matches, func(m match) bool { return !m.byOut && m.of(q) == never })
}

// lets reports whether a rule, or one in the chain that it jumps to, may spare a packet the rules that follow.
func (w *walk) lets(r rule, depth int) bool {
	switch r.ending {
	case accepted, leaps, unsure:
		return true
	case returns:
		return depth == 0
	case jumps:
		next := w.steps <= stepsMax && depth <= jumpsMax && w.neighbours[r.to] != nil
		return next && slices.ContainsFunc(w.neighbours[r.to].rules, func(inner rule) bool {
			w.steps++
			return w.begins(inner) && w.lets(inner, depth+1)
		})
	}
	return false
}

// judgeAll judges all interfaces by all base chains.
func judgeAll(chains []*chain, links []link) firewall.Forward {
	var f firewall.Forward
	var vifs, candidates []link
	known := map[string]bool{"lo": true}
	uplinks := slices.DeleteFunc(slices.Clone(links), func(l link) bool { return strings.HasPrefix(l.name, "vif") })
	for _, l := range links {
		switch {
		case strings.HasPrefix(l.name, "vif"):
			vifs = append(vifs, l)
		case !known[l.name]:
			candidates = append(candidates, l)
		}
		known[l.name] = true
	}
	for _, c := range chains {
		for _, name := range c.out { // it may come any time
			if !known[name] && !strings.HasPrefix(name, "vif") && len(name) < ifNameSize && name != "" {
				known[name] = true
				candidates = append(candidates, link{name: name})
			}
		}
	}
	marks := slices.ContainsFunc(chains, func(c *chain) bool {
		return slices.ContainsFunc(c.rules, func(r rule) bool { return r.marks })
	})
	slices.SortFunc(candidates, func(a, b link) int { return strings.Compare(a.name, b.name) })
	all := append(slices.Clip(candidates), link{})
	bar := func(l link) string {
		marked := marking{}
		for range 2 { // an earlier chain may set the mark that this one asks for
			for _, c := range chains {
				if c.hook {
					if rule := c.judge(asked{out: l, all: all, vifs: vifs, uplinks: uplinks, marks: marks}, &marked); rule != "" {
						return rule
					}
				}
			}
			if marked == (marking{}) {
				break
			}
		}
		return ""
	}
	for _, l := range candidates {
		if rule := bar(l); rule != "" {
			f.Barred = append(f.Barred, firewall.Bar{Interface: l.name, Rule: rule})
		} else {
			f.Open = append(f.Open, l.name)
		}
	}
	f.Others = bar(link{})
	return f
}

// webPorts are the ports that a rule must be about to count.
var webPorts = []uint16{53, 80, 443}

func ports(from, to uint16) answer {
	for _, p := range webPorts {
		if from <= p && p <= to {
			return maybe
		}
	}
	return never
}

// protocol reports whether a packet is of that protocol.
func protocol(number byte) answer {
	if number == 6 || number == 17 { // TCP, UDP
		return maybe
	}
	return never
}

// state reports whether connection tracking gives it one of these states (NF_CT_STATE_BIT in the kernel's nf_conntrack_common.h).
func state(bits uint32) func(asked) answer {
	const established, fresh = 1 << 1, 1 << 3
	return func(q asked) answer {
		switch bits & (established | fresh) {
		case 0:
			return never
		case established | fresh:
			return always
		}
		if q.fresh {
			return whether(bits&fresh != 0)
		}
		return maybe
	}
}

func (m match) inverted() match {
	of := m.of
	m.of, m.unmarked = func(q asked) answer { return of(q).not() }, m.unmarked.not()
	return m
}

// marked is a condition on a mark.
func marked(unmarked answer) match {
	return match{byMark: true, unmarked: unmarked, of: func(asked) answer { return maybe }}
}

func constant(a answer) match { return match{of: func(asked) answer { return a }} }

func place(table, chain string, rule int) string {
	return fmt.Sprintf("%s, chain %s, rule %d", table, chain, rule)
}
