package backend

import (
	"net/netip"
	"testing"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/firewall/tracking"
)

// remembered makes connections of a's, from ports 5001 to 5003, to its old proxy, which are gone at both ends but not in
// connection tracking. The binding of moved leads to its new proxy.
func remembered(t *testing.T, m Machine) (a, b *Host, backend firewall.Backend, moved firewall.Binding) {
	t.Helper()
	a, b = NewSite(t)
	stop := Listen(t, Gateway+":61000", "a's old proxy")
	Listen(t, Gateway+":61005", "a's new proxy")
	backend = open(t, m)
	Bind(t, backend, Personal)
	for _, from := range []int{5001, 5002, 5003} {
		conn, _, err := a.Dial(from, Gateway+":8100")
		Must(t, err)
		Vanish(conn)
	}
	stop()
	moved = Personal
	moved.To = netip.MustParseAddrPort(Gateway + ":61005")
	return a, b, backend, moved
}

// The reason for a guard by SYN flag. VM a's connections to port 61000 are gone at both ends but not in
// connection tracking, and port 61000 belongs to b's proxy by now. A new connection from the same port of a's
// then has the entry of the old one: it is translated to port 61000, whatever nat says today, and counts as
// established.
func TestOldTrackingEntry(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, b, backend, moved := remembered(t, m)
		Listen(t, Gateway+":61000", "b's proxy")
		others := Social
		others.To = netip.MustParseAddrPort(Gateway + ":61000")
		Bind(t, backend, moved, others)
		again := func(from int) (string, error) {
			conn, who, err := a.Dial(from, Gateway+":8100")
			if conn != nil {
				conn.Close()
			}
			return who, err
		}

		if who, err := again(5001); !ClosedOut(err) {
			t.Errorf("with the guard: %q, %v", who, err)
		}
		m.Shell(t, "nft flush chain ip vifproxy input")
		if who, err := again(5002); who != "b's proxy" {
			t.Errorf("without the guard: %q, %v; then what is it good for?", who, err)
		}
		Bind(t, backend, moved, others)
		if who, err := again(5003); !ClosedOut(err) {
			t.Errorf("with the guard again: %q, %v", who, err)
		}
		if got := a.Reach(Gateway + ":8100"); got != "a's new proxy" {
			t.Errorf("a from another port: %s", got)
		}
		if got := b.Reach(Gateway + ":8100"); got != "b's proxy" {
			t.Errorf("b: %s", got)
		}
	})
}

// An AppVM whose vif went away with connections open, and came back: it is not to be refused for what it was
// connected to.
func TestForgetAll(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, _, backend, moved := remembered(t, m)
		Bind(t, backend, moved)
		if _, who, err := a.Dial(5001, Gateway+":8100"); !ClosedOut(err) {
			t.Errorf("with what is remembered of the old connection: %q, %v; then there is nothing to forget", who, err)
		}
		open, _, err := a.Dial(5004, Gateway+":8100")
		Must(t, err)
		defer open.Close()
		if n, err := tracking.ForgetAll(TestConfig, []firewall.Binding{moved}); n == 0 || err != nil { // 3, unless the refused one is forgotten already
			t.Errorf("forgot %d connections, %v", n, err)
		}
		late, who, err := a.Dial(5002, Gateway+":8100")
		if who != "a's new proxy" {
			t.Errorf("after that: %q, %v", who, err)
		} else {
			defer late.Close() // or the collector closes it, and its entry is one of nothing
		}
		if who, err := Ask(open); who != "a's new proxy" {
			t.Errorf("an open connection: %q, %v", who, err)
		}
		if n, err := tracking.ForgetAll(TestConfig, []firewall.Binding{moved}); n != 0 || err != nil {
			t.Errorf("forgot %d connections, %v, of nothing", n, err)
		}
		if n, err := tracking.ForgetAll(TestConfig, nil); n < 2 || err != nil { // a live one, too
			t.Errorf("forgot %d connections, %v, of an AppVM without a binding", n, err)
		}
	})
}

// The same with what is known of the connections of a proxy that has ended, and of nothing else.
func TestForget(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, _, backend, moved := remembered(t, m)
		client := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(Personal.Addr, port) }
		Bind(t, backend, moved)
		open, _, err := a.Dial(5004, Gateway+":8100")
		Must(t, err)
		defer open.Close()
		Must(t, tracking.Forget(Personal.To, []netip.AddrPort{client(5002)}))
		if _, who, err := a.Dial(5002, Gateway+":8100"); who != "a's new proxy" {
			t.Errorf("what was to be forgotten: %q, %v", who, err)
		}
		if _, who, err := a.Dial(5001, Gateway+":8100"); !ClosedOut(err) {
			t.Errorf("what was not: %q, %v", who, err)
		}
		Must(t, tracking.Forget(Personal.To, []netip.AddrPort{client(5001), client(5002)})) // half of it is gone
		Must(t, tracking.Forget(Personal.To, []netip.AddrPort{client(5004)}))               // is not the old proxy's
		if who, err := Ask(open); who != "a's new proxy" {
			t.Errorf("an open connection: %q, %v", who, err)
		}
	})
}
