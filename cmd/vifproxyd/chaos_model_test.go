package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// This file is what the chaos run knows: from the inputs alone, what an AppVM may reach, what it must reach,
// and what `show` has to say. It does no I/O, and it has no idea of how vifproxyd does it.
//
// When the daemon reads an input is its own affair, so between two settled moments an input has a window of
// values that may have been read, in any combination with those of other inputs. What is certain at a
// settled moment is exact.

// universe is the hosts that clients ask for. No rule file ever has a line for the last one.
var universe = []string{
	"a.example", "b.example", "c.example", "d.example", "e.example", "f.example",
	"echo.example", "never.example",
}

const (
	listable   = hosts(1<<7 - 1)
	everything = hosts(1<<8 - 1)
)

// hosts is a subset of universe, a bit each.
type hosts uint16

func (h hosts) has(i int) bool { return h>>i&1 == 1 }

func (h hosts) String() string {
	var names []string
	for i, name := range universe {
		if h.has(i) {
			names = append(names, strings.TrimSuffix(name, ".example"))
		}
	}
	return "{" + strings.Join(names, " ") + "}"
}

// policy is what an AppVM's proxy permits, or nothing: there is no proxy for it.
type policy struct {
	served  bool
	permits hosts
}

var nothing = policy{}

func (p policy) String() string {
	if p == nothing {
		return "no proxy"
	}
	return p.permits.String()
}

// kind says what is to be made of a rule file or of the template.
type kind int

const (
	absent  kind = iota
	good         // a template that is absent is good too: the built-in one
	misread      // vifproxyd's own reading refuses it
	misrun       // tinyproxy refuses it
)

// content is a list or a template.
type content struct {
	kind  kind
	lines hosts // a list's: what its lines match
	open  bool  // a template's: what no line matches is permitted, and not the other way round
	text  string
	from  source // a list's that counts

	includes bool // a rule file's: the shared list, see with; then lines are those of its own
}

// under is what comes of a list under a template.
func (c content) under(template content) policy {
	if template.open {
		return policy{true, everything &^ c.lines}
	}
	return policy{true, c.lines}
}

// clashes tells whether a list cannot be used with a template: a list of dom0 permits what it names.
func (c content) clashes(template content) bool { return c.from != inFiles && template.open }

// head returns the directives of a rule file that are good: what it says of all its lines.
func (c content) head() (head string) {
	for line := range strings.Lines(c.text) {
		if line = strings.TrimSpace(line); line == ofDomains || line == ofNetwork {
			head += line + "\n"
		}
	}
	return head
}

// appVM is one AppVM of the model.
type appVM struct {
	ip   netip.Addr
	vifs []string // on which it is connected, in the order of domids
	lists

	astray    []string        // vifs that are half there, by which answers to it leave: it gets none
	connected bool            // at some time since the last settled moment
	held      map[bool]bool   // each may be so now: it is by `stop`, or not
	goods     map[policy]bool // each may be what is remembered of it as its last good policy
	disturbed bool            // by something that may cut its connections
	learns    int             // verbs by which it may reach everything
}

// model is all inputs.
type model struct {
	vms      []*appVM
	template []content // as appVM.read
	down     bool      // no daemon runs
	ceilings
	shared []content // as template: the list that rule files include
	lies   hosts     // that name servers give other addresses than their own, or may
	barred bool      // nothing may leave by the uplink
	lacks  int       // reasons, none of their lists', for which proxies may not start
}

func newModel(ips ...string) *model {
	m := &model{template: []content{{kind: good}}, ceilings: ceilings{ceiling: []content{{kind: misread}}}, shared: []content{{kind: misread}}}
	for _, ip := range ips {
		m.vms = append(m.vms, &appVM{
			ip: netip.MustParseAddr(ip), lists: newLists(),
			held: map[bool]bool{false: true}, goods: map[policy]bool{nothing: true},
		})
	}
	return m
}

// gap is a moment in which the directory is empty or not there.
func (m *model) gap() {
	for _, vm := range m.vms {
		now := vm.latest(inFiles)
		m.setList(vm, inFiles, content{})
		m.setList(vm, inFiles, now)
	}
	template := m.template[len(m.template)-1]
	m.setTemplate(content{kind: good})
	m.setTemplate(template)
}

// adds tells whether permits is no less than anything that may be in force.
func (m *model) adds(vm *appVM, permits hosts) bool {
	for p := range m.possible(vm) {
		if p.permits&^permits != 0 {
			return false
		}
	}
	return true
}

// cut notes that an AppVM may have been seen without a proxy, and its last good policy been forgotten.
func (vm *appVM) cut() {
	vm.disturbed = true
	vm.goods[nothing] = true
}

func (m *model) setTemplate(c content) {
	if c.kind == good {
		for _, vm := range m.vms {
			vm.disturbed = true // all get new processes, and their old ones are killed
		}
	}
	if m.down {
		m.template = nil
	}
	m.template = append(m.template, c)
	for _, vm := range m.vms {
		m.mayForget(vm)
	}
}

func (vm *appVM) connect(vif string) {
	vm.disturbed = true // with a second vif, the way of its packets changes
	vm.connected = true
	vm.strays(vif, false)
	vm.vifs = append(vm.vifs, vif)
	slices.SortFunc(vm.vifs, func(a, b string) int { // by domid: all are vifN.0
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
}

func (vm *appVM) disconnect(vif string) {
	vm.disturbed = true
	vm.strays(vif, false)
	vm.vifs = slices.DeleteFunc(vm.vifs, func(v string) bool { return v == vif })
	if len(vm.vifs) == 0 {
		vm.cut()
	}
}

// strays notes whether a vif has the route to an AppVM, and no gateway. A connection is granted by a vif that is bound only.
func (vm *appVM) strays(vif string, on bool) {
	vm.astray = slices.DeleteFunc(vm.astray, func(v string) bool { return v == vif })
	if on {
		vm.astray = append(vm.astray, vif)
	}
}

// mayLearn notes that an AppVM is going to learn. Connections that are made meanwhile are cut when that is over.
func (vm *appVM) mayLearn() {
	vm.learns++
	vm.disturbed = true
}

// mayHold notes that an AppVM is going to be held, or let go, or neither if the verb fails.
func (m *model) mayHold(vm *appVM, held bool) {
	vm.disturbed = vm.disturbed || !vm.held[held] || len(vm.held) > 1
	vm.held[held] = true
	m.mayForget(vm)
}

// mayLack notes that proxies may not start from now on, for one more reason.
func (m *model) mayLack() {
	m.lacks++
	for _, vm := range m.vms {
		m.mayForget(vm)
	}
}

// mayForget notes that the last good policy of an AppVM whose proxy may not start, or may be held, is forgotten, if other inputs can be read
// meanwhile: they may have taken something away, and tinyproxy has not been asked about them.
func (m *model) mayForget(vm *appVM) {
	for _, t := range m.template {
		for _, c := range vm.read {
			last := len(vm.goods) == 1 && c.kind == good && t.kind == good && vm.goods[c.under(t)]
			if (vm.held[true] || m.lacks > 0) && c.kind != absent && c.kind != misread && t.kind != misread && !c.clashes(t) && !last {
				vm.goods[nothing] = true
			}
		}
	}
}

// holds notes that an AppVM has been held, or let go, and that no other verb is under way.
func (vm *appVM) holds(held bool) { vm.held = map[bool]bool{held: true} }

// disturb notes something that may cut everybody's connections.
func (m *model) disturb() {
	for _, vm := range m.vms {
		vm.disturbed = true
	}
}

// ends is the end of the daemon and of all that it knows but what is held.
func (m *model) ends() {
	m.down = true
	m.template = m.template[len(m.template)-1:]
	for _, vm := range m.vms {
		vm.goods = map[policy]bool{nothing: true}
		vm.settle()
		vm.connected = len(vm.vifs) > 0
		vm.disturbed = true
	}
	m.halfMayCount()
}

// possible is every policy that may be in force for an AppVM.
func (m *model) possible(vm *appVM) map[policy]bool {
	if !vm.held[false] {
		return map[policy]bool{nothing: true}
	}
	all := m.unheld(vm)
	if vm.held[true] {
		all[nothing] = true
	}
	return all
}

// unheld is every policy that may be in force for an AppVM as soon as it is not held.
func (m *model) unheld(vm *appVM) map[policy]bool {
	if m.down || !vm.connected {
		return map[policy]bool{nothing: true}
	}
	all := maps.Clone(vm.goods)
	for _, t := range m.template {
		for _, c := range vm.read {
			if m.mayFit(c, t) {
				all[c.under(t)] = true
			}
		}
	}
	m.lower(all)
	return all
}

// may is every host that an AppVM can rightly reach now.
func (m *model) may(vm *appVM) (all hosts) {
	if m.barred {
		return 0
	}
	for p := range m.possible(vm) {
		if all |= p.permits; p != nothing && vm.learns > 0 {
			return all | m.most()
		}
	}
	return all
}

// must is every host that it has to reach. It has a proxy for sure when certain is true.
func (m *model) must(vm *appVM) (all hosts, certain bool) {
	if vm.disturbed || len(vm.vifs) == 0 || len(vm.astray) > 0 {
		return 0, false
	}
	all = everything
	for p := range m.possible(vm) {
		if p == nothing {
			return 0, false
		}
		all &= p.permits
	}
	return all, true
}

// settle notes that the daemon has read all inputs as they are now, and has done what is to be done about
// them.
func (m *model) settle() {
	template := m.template[len(m.template)-1]
	for _, vm := range m.vms {
		now := vm.now()
		switch {
		case len(vm.vifs) == 0 || now.kind == absent:
			vm.goods = map[policy]bool{nothing: true}
		case !vm.held[true] && m.fits(now, template, m.latestCeiling()):
			vm.goods = map[policy]bool{now.under(template): true}
		default:
			goods := m.unheld(vm)
			vm.goods = map[policy]bool{}
			for p := range goods {
				if m.under {
					p = p.below(m.latestCeiling())
				}
				vm.goods[p] = true
			}
		}
		vm.settle()
		vm.connected, vm.disturbed, vm.learns = len(vm.vifs) > 0, false, 0
	}
	m.template = []content{template}
	m.settleCeiling()
	m.shared = m.shared[len(m.shared)-1:]
}

// observe narrows down what an AppVM's last good policy is, and whether it is held, by what it reached when all was
// settled.
func (m *model) observe(vm *appVM, seen policy) error {
	if possible := m.possible(vm); !possible[seen] {
		return fmt.Errorf("%s has %v, possible are %v", vm.ip, seen, slices.Collect(maps.Keys(possible)))
	}
	switch {
	case seen != nothing:
		vm.held = map[bool]bool{false: true}
	case vm.held[true]: // so nobody knows what else would serve
		return nil
	}
	vm.goods = map[policy]bool{seen: true}
	return nil
}
