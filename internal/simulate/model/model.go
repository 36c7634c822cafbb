package model

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// An AppVM is one AppVM of the model. Only the model changes it.
type AppVM struct {
	IP   netip.Addr
	Vifs []string // on which it is connected, in the order of domids
	lists

	Astray    []string        // vifs that are half there, by which answers to it leave: it gets none
	connected bool            // at some time since the last rest
	held      map[bool]bool   // each may be so now: it is by `stop`, or not
	goods     map[Policy]bool // each may be what is remembered of it as its last good policy
	disturbed bool            // by something that may cut its connections
	learns    int             // verbs by which it may reach everything
	least     Hosts           // what is surely allowed to it for a time
	most      Hosts           // what may be
	was       Hosts           // what may have been, since its last good policy was made
}

// A Model is all inputs, and what follows from them. Its methods that change it are in journal.go: each of them is an event.
type Model struct {
	VMs      []*AppVM
	all      Hosts  // all that there is
	template []List // as AppVM.read
	down     bool   // no daemon runs
	ceilings
	shared []List // as template: the list that rule files include
	lacks  int    // reasons, none of their lists', for which proxies may not start

	record func(Event)
}

// Template returns the template as it is now.
func (m *Model) Template() List { return m.template[len(m.template)-1] }

// Shared returns the list that rule files include, as it is now.
func (m *Model) Shared() List { return m.shared[len(m.shared)-1] }

// Down reports whether no daemon runs.
func (m *Model) Down() bool { return m.down }

// Ceiling returns the ceiling as it is now.
func (m *Model) Ceiling() List { return m.latestCeiling() }

// Under reports whether the daemon has a ceiling.
func (m *Model) Under() bool { return m.under }

// Held reports whether an AppVM may be stopped, or may not be, by what people have asked for.
func (vm *AppVM) Held(held bool) bool { return vm.held[held] }

// Fixed reports whether one list and one template alone may be in force for an AppVM.
func (m *Model) Fixed(vm *AppVM) bool { return len(vm.read) == 1 && len(m.template) == 1 }

// vm returns the AppVM with an address.
func (m *Model) vm(ip netip.Addr) (*AppVM, error) {
	i := slices.IndexFunc(m.VMs, func(vm *AppVM) bool { return vm.IP == ip })
	if i < 0 {
		return nil, fmt.Errorf("there is no AppVM %v", ip)
	}
	return m.VMs[i], nil
}

// adds reports whether permits is no less than anything that may be in force.
func (m *Model) adds(vm *AppVM, permits Hosts) bool {
	for p := range m.possible(vm) {
		if p.Permits&^permits != 0 {
			return false
		}
	}
	return true
}

// cut notes that an AppVM may have been seen without a proxy, and its last good policy been forgotten.
func (vm *AppVM) cut() {
	vm.disturbed = true
	vm.goods[Nothing] = true
}

func (m *Model) setTemplate(t List) {
	if t.Open {
		t.Lines = m.all
	}
	if t.Kind == Good {
		for _, vm := range m.VMs {
			vm.disturbed = true // all get new processes, and their old ones are killed
		}
	}
	if m.down {
		m.template = nil
	}
	m.template = append(m.template, t)
	for _, vm := range m.VMs {
		m.mayForget(vm)
	}
}

func (vm *AppVM) connect(vif string) {
	vm.disturbed = true // with a second vif, the way of its packets changes
	vm.connected = true
	vm.strays(vif, false)
	vm.Vifs = append(slices.Clone(vm.Vifs), vif)
	slices.SortFunc(vm.Vifs, func(a, b string) int { // by domid: all are vifN.0
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
}

func (vm *AppVM) disconnect(vif string) {
	vm.disturbed = true
	vm.strays(vif, false)
	vm.Vifs = slices.DeleteFunc(slices.Clone(vm.Vifs), func(v string) bool { return v == vif })
	if len(vm.Vifs) == 0 {
		vm.cut()
	}
}

// strays notes whether a vif has the route to an AppVM, and no gateway. A connection is granted by a vif that is bound only.
func (vm *AppVM) strays(vif string, on bool) {
	vm.Astray = slices.DeleteFunc(slices.Clone(vm.Astray), func(v string) bool { return v == vif })
	if on {
		vm.Astray = append(vm.Astray, vif)
	}
}

// mayHold notes that an AppVM is going to be stopped or started, or neither if the verb fails.
func (m *Model) mayHold(vm *AppVM, held bool) {
	vm.disturbed = vm.disturbed || !vm.held[held] || len(vm.held) > 1
	vm.held[held] = true
	m.mayForget(vm)
}

// mayLack notes that proxies may not start from now on, for one more reason.
func (m *Model) mayLack() {
	m.lacks++
	for _, vm := range m.VMs {
		m.mayForget(vm)
	}
}

// mayForget notes that the last good policy of an AppVM whose proxy may not start, or may be held, is forgotten, if other inputs can be read
// meanwhile: they may have taken something away, and tinyproxy has not been asked about them.
func (m *Model) mayForget(vm *AppVM) {
	for _, t := range m.template {
		for _, l := range vm.read {
			last := len(vm.goods) == 1 && l.Kind == Good && t.Kind == Good && vm.goods[l.Under(t)]
			if (vm.held[true] || m.lacks > 0) && l.Kind != Absent && l.Kind != Misread && t.Kind != Misread && !l.clashes(t) && !last {
				vm.goods[Nothing] = true
			}
		}
	}
}

// ends is the end of the daemon and of all that it knows but what is held.
func (m *Model) ends() {
	m.down = true
	m.template = []List{m.Template()}
	for _, vm := range m.VMs {
		vm.goods = map[Policy]bool{Nothing: true}
		vm.settle()
		vm.connected = len(vm.Vifs) > 0
		vm.disturbed = true
		vm.least, vm.most = 0, 0
	}
	m.halfMayCount()
}

// possible returns every policy that may be in force for an AppVM.
func (m *Model) possible(vm *AppVM) map[Policy]bool {
	if !vm.held[false] {
		return map[Policy]bool{Nothing: true}
	}
	all := m.unheld(vm)
	if vm.held[true] {
		all[Nothing] = true
	}
	return all
}

// unheld returns every policy that may be in force for an AppVM as soon as it is not held.
func (m *Model) unheld(vm *AppVM) map[Policy]bool {
	if m.down || !vm.connected {
		return map[Policy]bool{Nothing: true}
	}
	all := maps.Clone(vm.goods)
	for _, t := range m.template {
		for _, l := range vm.read {
			if m.mayFit(l, t) {
				all[l.Under(t)] = true
			}
		}
	}
	m.lower(all)
	return all
}

// MayBeNone reports whether an AppVM may be without a proxy.
func (m *Model) MayBeNone(vm *AppVM) bool { return m.possible(vm)[Nothing] }

// May returns every host that an AppVM can rightly reach now.
func (m *Model) May(vm *AppVM) (all Hosts) {
	for p := range m.possible(vm) {
		if all |= p.Permits; p != Nothing && vm.learns > 0 {
			return all | m.most()
		}
	}
	return all
}

// Must returns every host that an AppVM has to reach. The AppVM has a proxy for sure when certain is true.
func (m *Model) Must(vm *AppVM) (all Hosts, certain bool) {
	if vm.disturbed || len(vm.Vifs) == 0 || len(vm.Astray) > 0 {
		return 0, false
	}
	all = m.all
	for p := range m.possible(vm) {
		if p == Nothing {
			return 0, false
		}
		all &= p.Permits
	}
	return all, true
}

// settle notes that the daemon has read all inputs as they are now, and has done what is to be done about them.
func (m *Model) settle() {
	for _, vm := range m.VMs {
		now := vm.Now()
		switch {
		case len(vm.Vifs) == 0 || now.Kind == Absent:
			vm.goods, vm.was = map[Policy]bool{Nothing: true}, vm.most
		case !vm.held[true] && m.fits(now, m.Template(), m.latestCeiling()):
			vm.goods, vm.was = map[Policy]bool{now.Under(m.Template()): true}, vm.most
		default:
			goods := m.unheld(vm)
			vm.goods = map[Policy]bool{}
			for p := range goods {
				if m.under {
					p = p.below(m.latestCeiling())
				}
				vm.goods[p] = true
			}
		}
		vm.settle()
		vm.connected, vm.disturbed, vm.learns = len(vm.Vifs) > 0, false, 0
	}
	m.template = []List{m.Template()}
	m.settleCeiling()
	m.shared = []List{m.Shared()}
}

// saw compares what an AppVM reached at a rest with what it may reach. That narrows down what its last good policy is, and whether it
// is held.
func (m *Model) saw(vm *AppVM, seen Policy) error {
	possible := m.possible(vm)
	matches := map[Policy]bool{}
	for p := range possible {
		if m.looksLike(vm, p, seen) {
			matches[p] = true
		}
	}
	switch {
	case len(matches) == 0:
		return fmt.Errorf("%s has %v, possible are %v, and allowed for a time %v to %v", vm.IP, seen, slices.Collect(maps.Keys(possible)), vm.least, vm.most)
	case seen != Nothing:
		vm.held = map[bool]bool{false: true}
	case vm.held[true]: // so nobody knows what else would serve
		return nil
	}
	if vm.most == 0 {
		if vm.goods[Nothing] { // what serves may be from before the AppVM restarted, and is forgotten when it ends
			matches[Nothing] = true
		}
		vm.goods = matches
	}
	return nil
}

// looksLike reports whether a policy looks like what was seen, if some hosts are allowed for a time. An AppVM keeps such hosts with its
// last good policy, and does not get others. When their time is over, it keeps those that its list permits now.
func (m *Model) looksLike(vm *AppVM, p, seen Policy) bool {
	if p.Served != seen.Served || p == Nothing {
		return p == seen
	}
	least, most := p.Permits, p.Permits|vm.most|vm.was&vm.Now().Lines
	if m.fits(vm.Now(), m.Template(), m.latestCeiling()) {
		least |= vm.least
	}
	if m.under {
		least, most = least&m.kept, most&m.kept
	}
	return least&^seen.Permits == 0 && seen.Permits&^most == 0
}

// String returns what the daemon may know of an AppVM.
func (vm *AppVM) String() string {
	return fmt.Sprintf("lists that may count %+v, last good rules %v", vm.read, slices.Collect(maps.Keys(vm.goods)))
}
