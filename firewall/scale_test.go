package firewall

import (
	"fmt"
	"strings"
	"testing"
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

// 250 bindings: Sync with nothing to do, and with one to add or to remove; Open over all that an earlier run
// left.
func BenchmarkSync(b *testing.B) {
	all := many(250)
	for _, m := range machines {
		for name, work := range map[string]func(b *testing.B, backend Backend, i int){
			"nothing": func(b *testing.B, backend Backend, i int) { sync(b, backend, all...) },
			"one":     func(b *testing.B, backend Backend, i int) { sync(b, backend, all[:249+i%2]...) },
			"open":    func(b *testing.B, backend Backend, i int) { m.open(b) },
		} {
			b.Run(m.name+"/"+name, func(b *testing.B) {
				enterNamespace(b)
				m.loadForeign(b)
				backend := m.open(b)
				sync(b, backend, all...)
				for i := 0; b.Loop(); i++ {
					work(b, backend, i)
				}
			})
		}
	}
}
