package display

import (
	"fmt"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/terminal"
)

// Remarks returns what there is to say below a table about those VMs that are chosen: each thing once, with all VMs that it is
// about.
func Remarks(vms []control.VM, chosen func(control.VM) bool) (lines []string) {
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
		if !vm.Learning.IsZero() {
			add(vm, "learns until "+vm.Learning.Local().Format("15:04:05")+": reaches every public host by its name")
		}
		if vm.List == control.Black {
			add(vm, "black list: reaches all hosts but those in its rule file")
		} else if vm.AnyAddress != "" {
			add(vm, vm.AnyAddress+": whoever takes over the proxy reaches any public address")
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
		for _, text := range vm.AllDoubts() {
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

// confined returns whether all mechanisms keep a proxy in.
func confined(vm control.VM) string {
	switch {
	case vm.Confinement == nil:
		return cell("")
	case len(vm.Confinement.Missing) > 0:
		return "partly"
	}
	return "fully"
}
