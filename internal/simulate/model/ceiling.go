package model

import "slices"

// ceilings is what the model knows of the ceiling.
type ceilings struct {
	under   bool   // this daemon has one
	ceiling []List // as Model.template; kind Misread if it cannot be read
	kept    Hosts  // what ceilings admit that the daemon may have read last
}

// fits reports whether a list is put in force with a template by a ceiling.
func (m *Model) fits(list, template, ceiling List) bool {
	if list.Kind != Good || template.Kind != Good || list.clashes(template) {
		return false
	}
	return !m.under || ceiling.Kind == Good && !template.Open && list.Lines&^ceiling.Lines == 0
}

// mayFit reports whether a list may be put in force with a template.
func (m *Model) mayFit(list, template List) bool {
	return slices.ContainsFunc(m.ceiling, func(c List) bool { return m.fits(list, template, c) })
}

func (m *Model) latestCeiling() List { return m.ceiling[len(m.ceiling)-1] }

// lower adds what is left of policies below any ceiling that may have been read, in whatever order.
func (m *Model) lower(all map[Policy]bool) {
	if !m.under {
		return
	}
	for range m.ceiling {
		for p := range all {
			for _, c := range m.ceiling {
				all[p.below(c)] = true
			}
		}
	}
}

// most returns what a lesson may permit.
func (m *Model) most() Hosts {
	if m.under {
		return m.kept
	}
	return m.all
}

// setCeiling is a change of the ceiling that is seen whole or not at all.
func (m *Model) setCeiling(ceiling List) {
	for _, vm := range m.VMs {
		for p := range m.possible(vm) {
			vm.disturbed = vm.disturbed || m.under && p.below(ceiling) != p
		}
		for _, t := range m.template {
			for _, list := range vm.read {
				was := !slices.ContainsFunc(m.ceiling, func(c List) bool { return !m.fits(list, t, c) })
				vm.disturbed = vm.disturbed || m.under && m.fits(list, t, ceiling) && !(was && m.goesOn(vm, list))
			}
		}
		if m.under && vm.held[true] { // its last good policy may be forgotten
			vm.goods[Nothing] = true
		}
	}
	if m.down {
		m.ceiling = nil
	}
	m.ceiling = append(slices.DeleteFunc(slices.Clone(m.ceiling), func(c List) bool { return c == ceiling }), ceiling)
	if ceiling.Kind == Good {
		m.kept |= ceiling.Lines
	}
}

// begins notes that a daemon begins, with a ceiling or without.
func (m *Model) begins(under bool) {
	m.under = under
	m.settleCeiling()
	if m.latestCeiling().Kind != Good {
		m.kept = 0 // it admits nothing before it was read
	}
}

// settleCeiling notes that the daemon has read the ceiling as it is now.
func (m *Model) settleCeiling() {
	m.ceiling = []List{m.latestCeiling()}
	if now := m.ceiling[0]; now.Kind == Good {
		m.kept = now.Lines
	}
}
