package backend

import (
	"fmt"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/ruleset"
)

// What Sync costs, beside what the kernel takes for the least of its kind in the same run, its floor:
//
//	one-N      an AppVM comes or goes among N        floor: element, one transaction of one element
//	openings-N    one whose proxy has openings of its own  floor: the same
//	nothing-N  nothing to do for N                   floor: generation, one request and its answer
//	foreign-N  nothing to do, but somebody else has  floor: dump-N, the elements of our sets, and element
//	           changed the ruleset meanwhile
//
// and open: over all that an earlier run left.
func BenchmarkSync(b *testing.B) {
	for _, m := range Machines {
		for _, n := range []int{1, 250} {
			plain, opened := Housing(n), Housing(n, OpeningTo("192.168.1.0/24", 0), OpeningTo("192.168.0.0/16", 8080))
			comes := func(b *testing.B, backend firewall.Backend, i int, full firewall.State) {
				if i%2 == 0 {
					only(b, backend, Without(full))
				} else {
					only(b, backend, full)
				}
			}
			type work func(b *testing.B, backend firewall.Backend, other *Foreigner, i int)
			works := []struct {
				name string
				work work
			}{
				{"nothing", func(b *testing.B, backend firewall.Backend, _ *Foreigner, i int) { only(b, backend, plain) }},
				{"one", func(b *testing.B, backend firewall.Backend, _ *Foreigner, i int) { comes(b, backend, i, plain) }},
				{"holes", func(b *testing.B, backend firewall.Backend, _ *Foreigner, i int) { comes(b, backend, i, opened) }},
				{"open", func(b *testing.B, backend firewall.Backend, _ *Foreigner, i int) { open(b, m) }},
			}
			if m.Kind == "nftables" {
				works = append(works, []struct {
					name string
					work work
				}{
					{"foreign", func(b *testing.B, backend firewall.Backend, other *Foreigner, _ int) {
						other.Write(b)
						only(b, backend, plain)
					}},
					{"element", func(b *testing.B, _ firewall.Backend, other *Foreigner, _ int) { other.Write(b) }},
					{"generation", func(b *testing.B, _ firewall.Backend, other *Foreigner, _ int) {
						_, err := other.Conn.Generation()
						Must(b, err)
					}},
					{"dump", func(b *testing.B, _ firewall.Backend, other *Foreigner, _ int) {
						for _, elements := range other.Ours {
							Must(b, other.Conn.Walk(elements, func(ruleset.Object) error { return nil }))
						}
					}},
				}...)
			}
			for _, w := range works {
				b.Run(fmt.Sprintf("%s/%s-%d", m.Name, w.name, n), func(b *testing.B) {
					EnterNamespace(b)
					m.LoadForeign(b)
					backend := open(b, m)
					var other *Foreigner
					if m.Kind == "nftables" {
						other = NewForeigner(b, m)
						other.Look(b)
					}
					start := plain
					if w.name == "holes" {
						start = opened
					}
					only(b, backend, start)
					for i := 0; b.Loop(); i++ {
						w.work(b, backend, other, i)
					}
				})
			}
		}
	}
}

// only is Sync, without what a test does besides.
func only(b *testing.B, backend firewall.Backend, want firewall.State) {
	_, err := backend.Sync(b.Context(), want, func() {})
	Must(b, err)
}
