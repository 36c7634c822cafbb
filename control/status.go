package control

import "slices"

// Of returns the VMs of these names, or all if there are none. A stopped VM whose rule file has gone may be named, but has no row.
func (s Status) Of(names []string) []VM {
	if len(names) == 0 {
		return s.VMs
	}
	return slices.DeleteFunc(slices.Clone(s.VMs), func(vm VM) bool { return !slices.Contains(names, vm.Name) })
}

// Knows returns an error if a name is not that of a VM.
func (s Status) Knows(names ...string) error {
	for _, name := range names {
		if _, err := s.VM(name); err != nil {
			return err
		}
	}
	return nil
}

// VM returns the VM of this name. If there is none, the error is that of the daemon's own verbs.
func (s Status) VM(name string) (VM, error) {
	var known []string
	for _, vm := range s.VMs {
		if vm.Name == name {
			return vm, nil
		}
		known = append(known, vm.Name)
	}
	return VM{}, &UnknownError{Names: []string{name}, Known: known}
}

// GatewayOf returns the gateway of a VM. For one that is not connected it is another VM's, because Qubes has the same on all vifs.
func (s Status) GatewayOf(vm VM) string {
	for _, vm := range append([]VM{vm}, s.VMs...) {
		if vm.Gateway != "" {
			return vm.Gateway
		}
	}
	return ""
}
