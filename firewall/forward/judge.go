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
	fresh   bool   // it begins a connection

	packet *packet // if all is known of the packet; then the match is about that, and nothing else
}

// A match is one condition of a rule.
type match struct {
	byOut  bool // it is about the interface by which a packet leaves
	byMark bool // it is about a mark that a rule may have set by that interface
	of     func(asked) answer
}

type ending int

const (
	goOn ending = iota
	dropped
	accepted
	returns // to the chain that led here; in a base chain, to its policy
	jumps
	leaps  // goto
	unsure // another program decides
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
	place     string
	hook      bool   // it is a base chain that is asked
	policy    ending // of a base chain
	families  []bool // whether of IPv6, for each family of a base chain
	rules     []rule
	table     map[string]*chain // its neighbours
	tableName string
	number    uint32 // of the hook
	priority  int32
	out       []string // names that its rules have for the interface by which packets leave
}

// judge returns the rule of the base chain that bars an interface; "" if none does. marked means that a mark may depend on the
// interface by which a packet leaves.
func (c *chain) judge(q asked, marked *bool) (bar string) {
	for _, six := range c.families {
		q.six = six
		w := &walk{asked: q, neighbours: c.table, marked: *marked}
		end := w.chain(c, 0, false)
		*marked = w.marked
		if end == returns && c.policy == dropped && w.escape {
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
	neighbours map[string]*chain
	steps      int
	escape     bool   // an earlier rule lets pass what leaves by another interface: from here on, rules that drop do so by interface
	marked     bool   // a rule, of whatever chain, sets a mark by interface
	bar        string // the rule that drops the packet because of its interface
}

// chain follows the rules of a chain. It returns accepted or dropped if the packet certainly ends there, and returns otherwise.
// byOut means that the way there has asked for the interface.
func (w *walk) chain(c *chain, depth int, byOut bool) ending {
	if depth > jumpsMax {
		return returns
	}
	for _, r := range c.rules {
		if w.steps++; w.steps > stepsMax || w.bar != "" {
			return dropped
		}
		matches, byThis := w.matches(r)
		if matches == never {
			continue
		}
		certain := matches == always
		w.marked = w.marked || r.marks && (byOut || byThis)
		switch r.ending {
		case dropped:
			if byOut || byThis || w.escape {
				w.bar = r.place
				return dropped
			}
			if certain {
				return dropped
			}
		case accepted, returns:
			if certain {
				return r.ending
			}
		case jumps, leaps:
			next := c.table[r.to]
			if next == nil {
				continue
			}
			end := w.chain(next, depth+1, byOut || byThis)
			if w.bar != "" || certain && (end != returns || r.ending == leaps) {
				return end
			}
		}
	}
	return returns
}

// matches reports whether a rule is about the packet, and whether it asks for the interface.
func (w *walk) matches(r rule) (all answer, byOut bool) {
	all = always
	elsewhere := false // it is about another interface
	for _, m := range r.matches {
		a := m.of(w.asked)
		byOut = byOut || m.byOut || m.byMark && w.marked
		elsewhere = elsewhere || a == never && m.byOut
		all = min(all, a)
	}
	if elsewhere && w.begins(r) && w.lets(r, 0) {
		w.escape = true
	}
	return all, byOut
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
	slices.SortFunc(candidates, func(a, b link) int { return strings.Compare(a.name, b.name) })
	bar := func(l link) string {
		marked := false
		for range 2 { // an earlier chain may set the mark that this one asks for
			for _, c := range chains {
				if c.hook {
					if rule := c.judge(asked{out: l, vifs: vifs, uplinks: uplinks}, &marked); rule != "" {
						return rule
					}
				}
			}
			if !marked {
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

const ifNameSize = 16 // IFNAMSIZ, with the final zero

// A linkName is a name in a rule: of one interface, or of all that begin so.
type linkName struct {
	name   string
	prefix bool
}

func (n linkName) fits(name string) bool {
	return name == n.name || n.prefix && strings.HasPrefix(name, n.name)
}

// out reports whether a packet leaves by an interface of that name.
func (n linkName) out(q asked) answer { return whether(n.fits(q.out.name)) }

// in reports whether it comes by one: packets of AppVMs come by vifs.
func (n linkName) in(asked) answer {
	switch {
	case n.prefix && strings.HasPrefix("vif", n.name):
		return always
	case strings.HasPrefix(n.name, "vif"):
		return maybe
	}
	return never
}

// inGroup reports whether a packet comes by an interface of that group. Those of AppVMs are in group 2 (qubes-core-agent-linux,
// network/vif-route-qubes).
func inGroup(group uint32) func(asked) answer {
	return func(q asked) answer {
		in := 0
		for _, vif := range q.vifs {
			if vif.group == group {
				in++
			}
		}
		switch {
		case len(q.vifs) == 0 && group == 2, in > 0 && in == len(q.vifs):
			return always
		case in > 0 || group == 2:
			return maybe
		}
		return never
	}
}

// inIndex does the same for one interface.
func inIndex(index uint32) func(asked) answer {
	return func(q asked) answer {
		if slices.ContainsFunc(q.uplinks, func(l link) bool { return l.index == index }) {
			return never
		}
		return maybe // a vif, perhaps a new one
	}
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
	m.of = func(q asked) answer { return of(q).not() }
	return m
}

func constant(a answer) match { return match{of: func(asked) answer { return a }} }

func place(table, chain string, rule int) string {
	return fmt.Sprintf("%s, chain %s, rule %d", table, chain, rule)
}
