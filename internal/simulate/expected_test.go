package simulate_test

import (
	"net/netip"
	"slices"

	"vifproxy/internal/simulate/model"
)

// This file tells the model of the chaos run what happens to the simulated machine. At rest, the model says what has to be.

// newExpected returns a model that knows the AppVMs of a machine.
func (m *machine) newExpected() *model.Model {
	var addrs []netip.Addr
	for _, vm := range m.vms {
		addrs = append(addrs, vm.addr)
	}
	return model.New(model.Hosts(everyLine), m.tells, addrs...)
}

// asList returns a list as the model has it: tinyproxy refuses one with a certain line.
func asList(l list) model.List {
	has := model.List{Lines: model.Hosts(l.lines &^ includeLine), Includes: l.lines&includeLine != 0}
	switch {
	case l.kind == none:
		return model.List{}
	case l.kind != good:
		return model.List{Kind: model.Misread}
	case l.lines&badLine != 0:
		has.Kind = model.Misrun
	default:
		has.Kind = model.Good
	}
	return has
}

// tell tells the model what has changed.
func (m *machine) tell() {
	for i, vm := range m.vms {
		e := m.expected.VMs[i]
		vifs := vifsOf(vm)
		for _, v := range e.Vifs {
			if !slices.Contains(vifs, v) {
				m.expected.Disconnect(e, v)
			}
		}
		for _, v := range vifs {
			if !slices.Contains(e.Vifs, v) {
				m.expected.Connect(e, v)
			}
		}
		if l := asList(vm.dom0); e.Features["dom0"] != l {
			m.expected.SetFeature(e, "dom0", l)
		}
		if l := asList(vm.file); e.Files["file"] != l {
			m.expected.SetFile(e, "file", l)
		}
		for _, is := range []bool{false, true} {
			if may := vm.stopped == maybe || (vm.stopped == yes) == is; may && !e.Held(is) {
				m.expected.MayHold(e, is)
			}
		}
		if vm.stopped != maybe {
			m.expected.Holds(e, vm.stopped == yes)
		}
		m.expected.Allow(e, model.Hosts(vm.surely(m)), model.Hosts(vm.temporary()))
	}
	if l := asList(m.shared); m.expected.Shared() != sharedOf(l) {
		m.expected.SetShared(sharedOf(l))
	}
	t := model.List{Kind: model.Good, Text: templates[m.tmpl]}
	if m.tmpl == brokenTemplate {
		t.Kind = model.Misread
	}
	if m.expected.Template() != t {
		m.expected.SetTemplate(t)
	}
	c := model.List{Kind: model.Good, Lines: model.Hosts(m.ceiling.now)}
	if m.ceiling.now == noCeiling || m.told.ceiling == c && m.told.none == m.noCeiling {
		return
	}
	m.told.ceiling, m.told.none = c, m.noCeiling
	m.expected.SetCeiling(c)
	if m.noCeiling { // one that cannot be read leaves the one before in force
		m.expected.SetCeiling(model.List{Kind: model.Misread})
	}
}

// sharedOf returns the list that others include: that there is none is a mistake.
func sharedOf(l model.List) model.List {
	if l.Kind == model.Absent {
		l.Kind = model.Misread
	}
	return l
}

func vifsOf(vm *appVM) (all []string) {
	for _, v := range vm.vifs {
		all = append(all, vifOf(v))
	}
	return all
}
