package news

import (
	"slices"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// Barred returns the interfaces by which proxies may not leave, as people are told; not nil.
func Barred(f firewall.Forward) []control.Barred {
	all := []control.Barred{}
	for _, b := range f.Barred {
		all = append(all, control.Barred{Interface: b.Interface, Rule: b.Rule})
	}
	if f.Others != "" {
		all = append(all, control.Barred{Interface: "all others", Rule: f.Others})
	}
	return all
}

// EmitBarred emits an event for each interface by which proxies may no longer leave, and for each by which they may again.
func EmitBarred(emitter *events.Emitter, before, now firewall.Forward) {
	was, is := Barred(before), Barred(now)
	for _, b := range is {
		if !slices.Contains(was, b) {
			emitter.Emit(events.Barred, events.About{What: b.Interface, Why: b.Rule})
		}
	}
	for _, b := range was {
		if !slices.ContainsFunc(is, func(a control.Barred) bool { return a.Interface == b.Interface }) {
			emitter.Emit(events.NotBarred, events.About{What: b.Interface})
		}
	}
}
