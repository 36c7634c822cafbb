package news

import (
	"vifproxy/control"
	"vifproxy/firewall"
)

// Barred returns the interfaces by which proxies may not leave, as people are told.
func Barred(f firewall.Forward) (all []control.Barred) {
	for _, b := range f.Barred {
		all = append(all, control.Barred{Interface: b.Interface, Rule: b.Rule})
	}
	if f.Others != "" {
		all = append(all, control.Barred{Interface: "all others", Rule: f.Others})
	}
	return all
}
