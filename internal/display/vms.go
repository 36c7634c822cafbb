// Package display writes what vifproxyd says as text for people: tables, lines and remarks. What AppVMs have chosen is made plain by
// package terminal.
//
// Concurrency: its functions may be called from any goroutine.
package display

import (
	"slices"
	"strconv"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// Table returns what fits on a terminal.
func Table(vms []control.VM) string {
	rows := [][]string{{"NAME", "STATE", "VIF", "IP"}}
	for _, vm := range vms {
		rows = append(rows, []string{cell(vm.Name), cell(vm.State), cell(strings.Join(vm.Interfaces, ",")), cell(vm.IP)})
	}
	return usage.Aligned(withLists(rows, vms))
}

// withLists returns rows with where each VM's list is, unless all lists are rule files, as usual.
func withLists(rows [][]string, vms []control.VM) [][]string {
	if !slices.ContainsFunc(vms, func(vm control.VM) bool { return vm.Origin != "" && vm.Origin != control.InFile }) {
		return rows
	}
	rows[0] = append(rows[0], "LIST")
	for i, vm := range vms {
		rows[i+1] = append(rows[i+1], cell(vm.Origin))
	}
	return rows
}

// WideTable returns all that there is in a row.
func WideTable(vms []control.VM) string {
	rows := [][]string{{"NAME", "IP", "INTERFACE", "PID", "PORT", "STATE", "SINCE", "RESTARTS", "EGRESS-REFUSED", "CONFINED"}}
	for _, vm := range vms {
		since := ""
		if !vm.Since.IsZero() {
			since = Time(vm.Since)
		}
		rows = append(rows, []string{
			cell(vm.Name), cell(vm.IP), cell(strings.Join(vm.Interfaces, ",")), number(vm.PID), number(vm.Port), cell(vm.State),
			cell(since), strconv.Itoa(vm.Restarts), strconv.FormatUint(vm.EgressRefused, 10), confined(vm),
		})
	}
	return usage.Aligned(withLists(rows, vms))
}

// cell returns what stands in a cell of a table.
func cell(s string) string {
	if s == "" {
		return "--"
	}
	return terminal.Quote(s)
}

// number returns what stands in a cell for a number, of which 0 is none.
func number(n int) string {
	if n == 0 {
		return "--"
	}
	return strconv.Itoa(n)
}
