package firewall

import (
	"strings"
	"testing"
)

// TestOneAmongMany counts what one AppVM more, less or moved has written among 250: its own elements, nothing of the
// others'.
func TestOneAmongMany(t *testing.T) {
	for _, m := range machines[:2] {
		t.Run(m.name, func(t *testing.T) {
			enterNamespace(t)
			m.loadForeign(t)
			b := m.open(t)
			sets := 3 + strings.Count(m.rules(t), "set vifproxy {") // the fourth is in table qubes
			all := many(250)
			bind(t, b, all[:249]...)
			if n := bind(t, b, all...); n != sets {
				t.Errorf("%d writes for one AppVM more, want %d", n, sets)
			}
			if n := bind(t, b, all...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			moved := append(many(249), binding("vif249.0", all[249].Addr.String(), "10.138.0.1:62000"))
			if n := bind(t, b, moved...); n != 2*sets {
				t.Errorf("%d writes for a binding that moves, want %d", n, 2*sets)
			}
			if n := bind(t, b, moved[:249]...); n != sets {
				t.Errorf("%d writes for one AppVM less, want %d", n, sets)
			}
		})
	}
}
