package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/internal/check"
	"vifproxy/internal/dom0"
	"vifproxy/internal/terminal"
	"vifproxy/qubes"
	"vifproxy/rules"
)

// elsewhere returns the list of the VM if that is in dom0, and so in no file; nil for any other.
func (g *grant) elsewhere() (*rules.List, error) {
	vm, err := g.place.status.VM(g.VM)
	if err != nil || !g.place.daemons {
		return nil, nil
	}
	switch vm.Origin {
	case control.InDom0:
		return listAt(g.place.status, vm.Path)
	case control.InFirewall:
		list, err := listAt(g.place.status, vm.Path)
		if err != nil || g.o.duration.Given {
			return list, err
		}
		return nil, dom0.InFirewall(g.VM, g.hosts)
	case control.InRange:
		if g.o.duration.Given {
			return nil, nil
		}
		return nil, fmt.Errorf("the list of %s is that of all AppVMs of its range: edit %s, which is for all of them, or use allow --for",
			terminal.Quote(g.VM), terminal.Quote(vm.Path))
	}
	return nil, nil
}

// overruled returns an error if the file does not count, because the address of its VM has a list in dom0, by another name.
func (g *grant) overruled() error {
	for _, vm := range g.place.status.VMs {
		if g.place.daemons && g.dom0 == nil && vm.Origin == control.InDom0 && vm.Name != g.VM && vm.IP == g.file.Addr.String() {
			return fmt.Errorf("%s does not count: %s has the list %s in dom0 (`vifproxyctl allow %s HOST` says how to change it)",
				terminal.Quote(g.file.Path), vm.IP, terminal.Quote(vm.Path), terminal.Quote(vm.Name))
		}
	}
	return nil
}

// fileOf returns the list of a VM, wherever that is.
func fileOf(at place, set rules.Set, vm control.VM) (rules.File, error) {
	switch vm.Origin {
	case control.InDom0, control.InFirewall:
		list, err := listAt(at.status, vm.Path)
		if err != nil {
			return rules.File{}, err
		}
		return list.Parse()
	case control.InRange:
		addr, _ := netip.ParseAddr(vm.IP)
		if file, ok := set.Of(addr); ok {
			return file, nil
		}
	}
	return set.Find(vm.Name)
}

// listAt returns the list at a path of QubesDB.
func listAt(status control.Status, path string) (*rules.List, error) {
	lists, err := dom0.New(status.Setup.QubesDB, true).Lists()
	if err != nil {
		return nil, err
	}
	for _, l := range slices.Concat(lists.First, lists.Last) {
		if l.Path == path {
			return &l, nil
		}
	}
	return nil, fmt.Errorf("%s is in QubesDB no more: try again", path)
}

// tellDom0 prints the command for dom0 that makes content of the list. Nothing can be changed from here.
func (g *grant) tellDom0(what string, content []byte) error {
	text := fmt.Sprintf("nothing is %s: the list of %s is in dom0\n", what, terminal.Quote(g.VM))
	if len(g.Lines) > 0 {
		lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
		if size := len(strings.Join(dom0.Words(lines), " ")); size > qubes.ValueMax {
			return fmt.Errorf("the list of %s is in dom0, and would have %d bytes there, where %d are possible: write a rule file, "+
				"and remove the feature %s", g.VM, size, qubes.ValueMax, qubes.Key(g.dom0.Path))
		}
		list := *g.dom0
		list.Lines = lines
		if edited, err := list.Parse(); err == nil {
			g.Changes = check.Changes(g.rules.Template, g.file, edited)
		}
		g.InDom0 = dom0.New(g.place.status.Setup.QubesDB, false).Feature(*g.dom0, lines)
		for _, line := range g.Lines {
			if effect := check.Effect(g.Changes, line, g.added, g.hosts...); effect != "" {
				text += check.WithEffect(line, effect) + "\n"
			}
		}
		text += "type in dom0:\n" + terminal.Quote(g.InDom0) + "\n"
	} else {
		text = fmt.Sprintf("nothing to be %s: the list of %s is in dom0, as it should be\n", what, terminal.Quote(g.VM))
	}
	for _, host := range g.TakenBack {
		text += "allowed for a time, and no more: " + terminal.Quote(host) + "\n"
	}
	if err := g.c.print(g, text); err != nil {
		return err
	}
	if g.InDom0 != "" {
		return errTrouble // it is not done yet
	}
	return nil
}
