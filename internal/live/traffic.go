package live

import (
	"time"

	"vifproxy/control"
)

// Counters are how many bytes a link has moved, to the AppVM and from it.
type Counters struct{ Down, Up uint64 }

// A Meter computes rates from counters that are read now and then.
type Meter struct {
	read time.Time
	last map[string]Counters // by name of the AppVM
}

// Rates returns what AppVMs have moved a second since the last call. links has the counters of links, by name.
func (m *Meter) Rates(vms []control.VM, links map[string]Counters, now time.Time) map[string]Rate {
	sums, rates := map[string]Counters{}, map[string]Rate{}
	seconds := now.Sub(m.read).Seconds()
	for _, vm := range vms {
		var sum Counters
		seen := false
		for _, name := range vm.Interfaces {
			if c, ok := links[name]; ok {
				seen = true
				sum.Down += c.Down
				sum.Up += c.Up
			}
		}
		if !seen {
			continue
		}
		sums[vm.Name] = sum
		// A link that was made anew counts from 0.
		if before, ok := m.last[vm.Name]; ok && seconds > 0 && sum.Down >= before.Down && sum.Up >= before.Up {
			rates[vm.Name] = Rate{uint64(float64(sum.Down-before.Down) / seconds), uint64(float64(sum.Up-before.Up) / seconds)}
		}
	}
	m.read, m.last = now, sums
	return rates
}
