package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func many(n int) (all []Binding) {
	for i := range n {
		all = append(all, binding(fmt.Sprintf("vif%d.0", i), fmt.Sprintf("10.137.%d.%d", i/250, i%250+1),
			fmt.Sprintf("10.138.0.1:%d", 61000+i)))
	}
	return all
}

// Thousands of bindings in one Sync need more than one message, and a batch larger than a socket's usual
// buffer.
func TestThousands(t *testing.T) {
	for _, m := range machines[:2] {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			m.loadForeign(t)
			b := m.open(t)
			empty := m.rules(t)
			all := many(3000)
			sets := 3 + strings.Count(empty, "set vifproxy {") // the fourth is in table qubes
			if n := bind(t, b, all...); n != sets*len(all) {
				t.Errorf("%d writes for %d bindings", n, len(all))
			}
			if n := bind(t, b, all...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			m.shell(t, "nft flush chain ip vifproxy input")
			if n := bind(t, b, all...); n != 1 { // loaded as text, with all of them
				t.Errorf("%d writes for loading again", n)
			}
			if n := bind(t, b, all...); n != 0 {
				t.Errorf("%d writes after loading again", n)
			}
			if n := bind(t, b); n != sets*len(all) {
				t.Errorf("%d writes for removing all", n)
			}
			if got := m.rules(t); got != empty {
				t.Errorf("not empty:\n%s", diff(empty, got))
			}
		})
	}
}

// housing is a state of n AppVMs. Each proxy has holes of its own, if it is to.
func housing(n int, holes ...Hole) State {
	s := State{Bindings: many(n), Fence: Fence{
		Resolvers: []netip.Addr{netip.MustParseAddr("10.139.1.1"), netip.MustParseAddr("10.139.1.2")},
		Ports:     []uint16{563},
	}}
	for i := range n {
		s.Fence.Proxies = append(s.Fence.Proxies, Proxy{UID: testConfig.FirstUID + uint32(i), Holes: holes})
	}
	return s
}

// without is the same state when the last AppVM has gone.
func (s State) without() State {
	last := len(s.Bindings) - 1
	s.Bindings, s.Fence.Proxies = s.Bindings[:last], s.Fence.Proxies[:last]
	return s
}

// What Sync costs, beside what the kernel takes for the least of its kind in the same run, its floor:
//
//	one-N      an AppVM comes or goes among N        floor: element, one transaction of one element
//	holes-N    one whose proxy has holes of its own  floor: the same
//	nothing-N  nothing to do for N                   floor: generation, one request and its answer
//	foreign-N  nothing to do, but somebody else has  floor: dump-N, the elements of our sets, and element
//	           changed the ruleset meanwhile
//
// and open: over all that an earlier run left.
func BenchmarkSync(b *testing.B) {
	for _, m := range machines {
		for _, n := range []int{1, 250} {
			plain, holed := housing(n), housing(n, hole("192.168.1.0/24", 0), hole("192.168.0.0/16", 8080))
			comes := func(b *testing.B, backend Backend, i int, full State) {
				if i%2 == 0 {
					only(b, backend, full.without())
				} else {
					only(b, backend, full)
				}
			}
			type work func(b *testing.B, backend Backend, other *foreigner, i int)
			works := []struct {
				name string
				work work
			}{
				{"nothing", func(b *testing.B, backend Backend, _ *foreigner, i int) { only(b, backend, plain) }},
				{"one", func(b *testing.B, backend Backend, _ *foreigner, i int) { comes(b, backend, i, plain) }},
				{"holes", func(b *testing.B, backend Backend, _ *foreigner, i int) { comes(b, backend, i, holed) }},
				{"open", func(b *testing.B, backend Backend, _ *foreigner, i int) { m.open(b) }},
			}
			if m.kind == "nftables" {
				works = append(works, []struct {
					name string
					work work
				}{
					{"foreign", func(b *testing.B, backend Backend, other *foreigner, _ int) {
						other.write(b)
						only(b, backend, plain)
					}},
					{"element", func(b *testing.B, _ Backend, other *foreigner, _ int) { other.write(b) }},
					{"generation", func(b *testing.B, _ Backend, other *foreigner, _ int) {
						_, err := other.conn.generation()
						must(b, err)
					}},
					{"dump", func(b *testing.B, backend Backend, other *foreigner, _ int) {
						for _, set := range ourSets {
							if err := other.conn.elements(set.setName, func([]byte) {}); !errors.Is(err, unix.ENOENT) {
								must(b, err) // without Qubes there is no such table
							}
						}
					}},
				}...)
			}
			for _, w := range works {
				b.Run(fmt.Sprintf("%s/%s-%d", m.name, w.name, n), func(b *testing.B) {
					enterNamespace(b)
					m.loadForeign(b)
					backend := m.open(b)
					var other *foreigner
					if m.kind == "nftables" {
						other = newForeigner(b, m)
					}
					start := plain
					if w.name == "holes" {
						start = holed
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
func only(b *testing.B, backend Backend, want State) {
	_, err := backend.Sync(b.Context(), want, func() {})
	must(b, err)
}

// foreigner is another program, with a table of its own.
type foreigner struct {
	conn    *ruleset
	written int
}

func newForeigner(t testing.TB, m machine) *foreigner {
	m.shell(t, "nft add table ip other; nft add set ip other some '{ type mark; }'")
	conn, err := dial()
	must(t, err)
	t.Cleanup(func() { conn.socket.Close() })
	return &foreigner{conn: conn}
}

// write puts an element into its set, or takes it out again.
func (f *foreigner) write(t testing.TB) {
	t.Helper()
	request, flags := uint16(unix.NFT_MSG_NEWSETELEM), uint16(unix.NLM_F_CREATE)
	if f.written++; f.written%2 == 0 {
		request, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	must(t, f.conn.transact(0, change(request, flags, set{setName: setName{"other", "some"}}, []element{{key: "mark"}})))
}
