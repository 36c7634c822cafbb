package main

import (
	"fmt"
	"net/netip"
	"slices"

	"vifproxy/control"
)

// This file is what `show` has to say, by the model.

// row is what `show` says of an AppVM, as far as the inputs decide it.
type row struct {
	name      string
	vifs      []string
	standings []standing // one of them
}

type standing struct {
	state string
	err   bool
}

// rows is what `show` says when all is settled, by address.
func (m *model) rows() map[netip.Addr]row {
	template := m.template[len(m.template)-1]
	rows := map[netip.Addr]row{}
	for _, vm := range m.vms {
		now := vm.now()
		if now.kind == absent {
			continue
		}
		r := row{name: vm.shown(), vifs: vm.vifs}
		here := len(vm.vifs) > 0
		unread := now.kind == misread || template.kind == misread || now.clashes(template) ||
			m.under && (m.latestCeiling().kind != good || template.open || now.kind == good && !m.fits(now, content{kind: good}, m.latestCeiling()))
		refused := unread || here && (now.kind == misrun || template.kind == misrun)
		if vm.held[true] { // then tinyproxy has not been asked
			r.standings = append(r.standings, standing{control.Stopped, unread})
		}
		switch unheld := m.unheld(vm); {
		case !vm.held[false]:
		case here && refused: // then the last good policy serves, if there is one
			if unheld[nothing] {
				r.standings = append(r.standings, standing{control.Refused, true})
			}
			if len(unheld) > 1 || !unheld[nothing] {
				r.standings = append(r.standings, standing{control.Running, true})
			}
		case refused:
			r.standings = append(r.standings, standing{control.Refused, true})
		case !here:
			r.standings = append(r.standings, standing{control.Waiting, false})
		default:
			r.standings = append(r.standings, standing{control.Running, false})
		}
		rows[vm.ip] = r
	}
	return rows
}

// matches tells whether what `show` said is what the model expects.
func (m *model) matches(status control.Status) error {
	want := m.rows()
	for _, vm := range status.VMs {
		addr := netip.MustParseAddr(vm.IP)
		r, ok := want[addr]
		delete(want, addr)
		if !ok || vm.Name != r.name || !slices.Equal(vm.Interfaces, r.vifs) ||
			!slices.Contains(r.standings, standing{vm.State, vm.Error != ""}) {
			return fmt.Errorf("show says %+v, want %+v", vm, r)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("show does not know of %v", want)
	}
	return nil
}
