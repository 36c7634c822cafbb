package model

import (
	"fmt"
	"net/netip"
	"slices"

	"vifproxy/control"
)

// A Row is what `show` says of an AppVM, as far as the inputs decide it.
type Row struct {
	VM    netip.Addr `json:"vm"`
	Name  string     `json:"name"`
	Vifs  []string   `json:"vifs,omitempty"`
	State string     `json:"state"`
	Error bool       `json:"error,omitempty"` // there is one
}

// A wanted row is one of several.
type wanted struct {
	name      string
	vifs      []string
	standings []standing
}

type standing struct {
	state string
	err   bool
}

// rows returns what `show` says at a rest, by address.
func (m *Model) rows() map[netip.Addr]wanted {
	template := m.Template()
	rows := map[netip.Addr]wanted{}
	for _, vm := range m.VMs {
		now := vm.Now()
		if now.Kind == Absent {
			continue
		}
		r := wanted{name: vm.Shown(), vifs: vm.Vifs}
		here := len(vm.Vifs) > 0
		unread := now.Kind == Misread || template.Kind == Misread || now.clashes(template) ||
			m.under && (m.latestCeiling().Kind != Good || template.Open || now.Kind == Good && !m.fits(now, List{Kind: Good}, m.latestCeiling()))
		bad := unread || here && (now.Kind == Misrun || template.Kind == Misrun)
		if vm.held[true] { // then tinyproxy has not been asked
			r.standings = append(r.standings, standing{control.Stopped, unread})
		}
		switch unheld := m.unheld(vm); {
		case !vm.held[false]:
		case here && bad: // then the last good policy serves, if there is one
			if unheld[Nothing] {
				r.standings = append(r.standings, standing{control.Refused, true})
			}
			if len(unheld) > 1 || !unheld[Nothing] {
				r.standings = append(r.standings, standing{control.Running, true})
			}
		case bad:
			r.standings = append(r.standings, standing{control.Refused, true})
		case !here:
			r.standings = append(r.standings, standing{control.Waiting, false})
		default:
			r.standings = append(r.standings, standing{control.Running, false})
		}
		rows[vm.IP] = r
	}
	return rows
}

// Differs says what is wrong with what `show` said, if the daemon has done all that is to be done; nil if nothing is.
func (m *Model) Differs(show []Row) error {
	want := m.rows()
	for _, row := range show {
		r, ok := want[row.VM]
		delete(want, row.VM)
		if !ok || row.Name != r.name || !slices.Equal(row.Vifs, r.vifs) || !slices.Contains(r.standings, standing{row.State, row.Error}) {
			return fmt.Errorf("show says %+v, want %+v", row, r)
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("show does not know of %v", want)
	}
	return nil
}
