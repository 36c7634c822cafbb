package nft

import (
	"strings"
	"testing"

	. "vifproxy/firewall/firewalltest"
)

// TestOneAmongMany counts what one AppVM more, less or moved has written among 250: its own elements, nothing of the
// others'.
func TestOneAmongMany(t *testing.T) {
	for _, m := range Machines[:2] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.LoadForeign(t)
			b := open(t, m)
			sets := 3 + strings.Count(m.Rules(t), "set vifproxy {") // the fourth is in table qubes
			all := Many(250)
			Bind(t, b, all[:249]...)
			if n := Bind(t, b, all...); n != sets {
				t.Errorf("%d writes for one AppVM more, want %d", n, sets)
			}
			if n := Bind(t, b, all...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			moved := append(Many(249), BindingOf("vif249.0", all[249].Addr.String(), "10.138.0.1:62000"))
			if n := Bind(t, b, moved...); n != 2*sets {
				t.Errorf("%d writes for a binding that moves, want %d", n, 2*sets)
			}
			if n := Bind(t, b, moved[:249]...); n != sets {
				t.Errorf("%d writes for one AppVM less, want %d", n, sets)
			}
		})
	}
}
