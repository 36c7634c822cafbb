package main

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"vifproxy/control"
	"vifproxy/internal/terminal"
	"vifproxy/internal/usage"
)

// print shows VMs as a table, or as a JSON array for scripts.
func print(c *call, vms []control.VM) error {
	var text []byte
	var err error
	switch {
	case c.json:
		text, err = array(vms)
	case c.wide:
		text = wideTable(vms)
	default:
		text = table(vms)
	}
	if err == nil {
		_, err = c.stdout.Write(text)
	}
	return err
}

// table is what fits on a terminal.
func table(vms []control.VM) []byte {
	rows := [][]string{{"NAME", "STATE", "VIF", "IP"}}
	for _, vm := range vms {
		rows = append(rows, []string{cell(vm.Name), cell(vm.State), cell(strings.Join(vm.Interfaces, ",")), cell(vm.IP)})
	}
	return aligned(rows)
}

// wideTable is all that there is in a row.
func wideTable(vms []control.VM) []byte {
	rows := [][]string{{"NAME", "IP", "INTERFACE", "PID", "PORT", "STATE", "SINCE", "RESTARTS", "EGRESS-REFUSED", "CONFINED"}}
	for _, vm := range vms {
		since := ""
		if !vm.Since.IsZero() {
			since = moment(vm.Since)
		}
		rows = append(rows, []string{
			cell(vm.Name), cell(vm.IP), cell(strings.Join(vm.Interfaces, ",")), number(vm.PID), number(vm.Port), cell(vm.State),
			cell(since), strconv.Itoa(vm.Restarts), strconv.FormatUint(vm.EgressRefused, 10), confined(vm),
		})
	}
	return aligned(rows)
}

func aligned(rows [][]string) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush() // to memory
	return b.Bytes()
}

// remarks are what there is to say below a table about those VMs that are chosen, each thing once with all VMs that it is
// about.
func remarks(vms []control.VM, chosen func(control.VM) bool) (lines []string) {
	about := map[string][]string{}
	var texts []string
	add := func(vm control.VM, text string) {
		if about[text] == nil {
			texts = append(texts, text)
		}
		who := terminal.Quote(vm.Name)
		if vm.IP != "" {
			who += " (" + terminal.Quote(vm.IP) + ")"
		}
		about[text] = append(about[text], who)
	}
	for _, vm := range vms {
		if !chosen(vm) {
			continue
		}
		if vm.StoppedBy != "" {
			add(vm, "stopped by "+vm.StoppedBy+": vifproxyctl start "+vm.Name)
		}
		if vm.List == control.Black {
			add(vm, "black list: reaches all hosts but those in its rule file")
		}
		switch {
		case vm.Error != "":
			// The remark begins with the VM, and a mistake in the template is one remark for all.
			add(vm, strings.TrimPrefix(vm.Error, fmt.Sprintf("start proxy for %s (%s): ", vm.Name, vm.IP)))
			if vm.State == control.Running {
				add(vm, "served by the last good rules")
			}
		case vm.State == control.Failed || vm.State == control.Refused:
			add(vm, vm.State)
		}
		if vm.Doubt != "" {
			text := vm.Doubt
			if vm.Doubts > 1 {
				text += fmt.Sprintf("; and %d more: vifproxyctl check %s", vm.Doubts-1, vm.Name)
			}
			add(vm, text)
		}
		if confined(vm) == "partly" {
			add(vm, "not fully confined: vifproxyctl doctor says what is missing")
		}
	}
	for _, text := range texts {
		lines = append(lines, strings.Join(about[text], ", ")+": "+terminal.Quote(text))
	}
	return lines
}

// printRemarks wraps them if a terminal shows them. Scripts have the same in JSON.
func printRemarks(c *call, w io.Writer, lines []string) error {
	if c.json && w == c.stdout || len(lines) == 0 {
		return nil
	}
	text := ""
	if w == c.stdout {
		text = "\n"
	}
	for _, line := range lines {
		text += usage.Wrap(line, terminal.Width(w), 4)
	}
	_, err := io.WriteString(w, text)
	return err
}

// confined says whether all mechanisms keep a proxy in.
func confined(vm control.VM) string {
	switch {
	case vm.Confinement == nil:
		return cell("")
	case len(vm.Confinement.Missing) > 0:
		return "partly"
	}
	return "fully"
}

func cell(s string) string {
	if s == "" {
		return "--"
	}
	return terminal.Quote(s)
}

func number(n int) string {
	if n == 0 {
		return "--"
	}
	return strconv.Itoa(n)
}

func array[T any](rows []T) ([]byte, error) {
	if rows == nil {
		rows = []T{}
	}
	return document(rows)
}

// document is a whole output in JSON.
func document(v any) ([]byte, error) { return terminal.JSON(v, "  ") }
