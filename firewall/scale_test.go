package firewall

import (
	"fmt"
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
			sets := 2 + strings.Count(empty, "set vifproxy {") // the third is in table qubes
			if n := sync(t, b, all...); n != sets*len(all) {
				t.Errorf("%d writes for %d bindings", n, len(all))
			}
			if n := sync(t, b, all...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			m.shell(t, "nft flush chain ip vifproxy input")
			if n := sync(t, b, all...); n != 1 { // loaded as text, with all of them
				t.Errorf("%d writes for loading again", n)
			}
			if n := sync(t, b, all...); n != 0 {
				t.Errorf("%d writes after loading again", n)
			}
			if n := sync(t, b); n != sets*len(all) {
				t.Errorf("%d writes for removing all", n)
			}
			if got := m.rules(t); got != empty {
				t.Errorf("not empty:\n%s", diff(empty, got))
			}
		})
	}
}

// What Sync costs, beside what the kernel takes for the least of its kind in the same run, its floor:
//
//	one-N      one binding comes or goes among N     floor: element, one transaction of one element
//	nothing-N  nothing to do for N                   floor: generation, one request and its answer
//	foreign-N  nothing to do, but somebody else has  floor: dump-N, the elements of our sets, and element
//	           changed the ruleset meanwhile
//
// and open: over all that an earlier run left.
func BenchmarkSync(b *testing.B) {
	for _, m := range machines {
		for _, n := range []int{1, 250} {
			all := many(n)
			for name, work := range map[string]func(b *testing.B, backend Backend, i int){
				"nothing": func(b *testing.B, backend Backend, i int) { only(b, backend, all) },
				"one":     func(b *testing.B, backend Backend, i int) { only(b, backend, all[:n-1+i%2]) },
				"open":    func(b *testing.B, backend Backend, i int) { m.open(b) },
			} {
				b.Run(fmt.Sprintf("%s/%s-%d", m.name, name, n), func(b *testing.B) {
					enterNamespace(b)
					m.loadForeign(b)
					backend := m.open(b)
					sync(b, backend, all...)
					for i := 0; b.Loop(); i++ {
						work(b, backend, i)
					}
				})
			}
			if m.kind != "nftables" {
				continue
			}
			for name, work := range map[string]func(b *testing.B, backend *nftBackend, other *foreigner){
				"foreign": func(b *testing.B, backend *nftBackend, other *foreigner) {
					other.write(b)
					only(b, backend, all)
				},
				"element": func(b *testing.B, backend *nftBackend, other *foreigner) { other.write(b) },
				"generation": func(b *testing.B, backend *nftBackend, other *foreigner) {
					_, err := backend.conn.generation()
					must(b, err)
				},
				"dump": func(b *testing.B, backend *nftBackend, other *foreigner) {
					for set := range backend.conn.last.elements {
						_, err := backend.conn.ask(message(
							unix.NFT_MSG_GETSETELEM, set.family(), unix.NLM_F_DUMP, set.attributes()))
						must(b, err)
					}
				},
			} {
				b.Run(fmt.Sprintf("%s/%s-%d", m.name, name, n), func(b *testing.B) {
					enterNamespace(b)
					m.loadForeign(b)
					backend := m.open(b).(*nftBackend)
					sync(b, backend, all...)
					other := newForeigner(b, m)
					for b.Loop() {
						work(b, backend, other)
					}
				})
			}
		}
	}
}

// only is Sync, without what a test does besides.
func only(b *testing.B, backend Backend, want []Binding) {
	_, err := backend.Sync(b.Context(), State{Bindings: want})
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
	must(t, f.conn.transact(0, setName{"other", "some"}.change(request, flags, map[string]string{"mark": ""})))
}
