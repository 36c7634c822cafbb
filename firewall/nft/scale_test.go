package nft

import (
	"strings"
	"testing"

	. "vifproxy/firewall/firewalltest"
)

// Thousands of bindings in one Sync need more than one message, and a batch larger than a socket's usual
// buffer.
func TestThousands(t *testing.T) {
	for _, m := range Machines[:2] {
		t.Run(m.Name, func(t *testing.T) {
			EnterNamespace(t)
			m.LoadForeign(t)
			b := open(t, m)
			empty := m.Rules(t)
			all := Many(3000)
			sets := 3 + strings.Count(empty, "set vifproxy {") // the fourth is in table qubes
			if n := Bind(t, b, all...); n != sets*len(all) {
				t.Errorf("%d writes for %d bindings", n, len(all))
			}
			if n := Bind(t, b, all...); n != 0 {
				t.Errorf("%d writes with nothing to do", n)
			}
			m.Shell(t, "nft flush chain ip vifproxy input")
			if n := Bind(t, b, all...); n != 1 { // loaded as text, with all of them
				t.Errorf("%d writes for loading again", n)
			}
			if n := Bind(t, b, all...); n != 0 {
				t.Errorf("%d writes after loading again", n)
			}
			if n := Bind(t, b); n != sets*len(all) {
				t.Errorf("%d writes for removing all", n)
			}
			if got := m.Rules(t); got != empty {
				t.Errorf("not empty:\n%s", Diff(empty, got))
			}
		})
	}
}
