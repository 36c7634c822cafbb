package firewall

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// vanish closes a connection without sending anything, so that connection tracking keeps it as established.
func vanish(conn *net.TCPConn) {
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
	}
	conn.Close()
}

// remembered makes connections of a's, from ports 5001 to 5003, to its old proxy, which are gone at both ends but not in
// connection tracking. The binding of moved leads to its new proxy.
func remembered(t *testing.T, m machine) (a, b *host, backend Backend, moved Binding) {
	t.Helper()
	a, b = site(t)
	stop := listen(t, gateway+":61000", "a's old proxy")
	listen(t, gateway+":61005", "a's new proxy")
	backend = m.open(t)
	bind(t, backend, personal)
	for _, from := range []int{5001, 5002, 5003} {
		conn, _, err := a.dial(from, gateway+":8100")
		must(t, err)
		vanish(conn)
	}
	stop()
	moved = personal
	moved.To = netip.MustParseAddrPort(gateway + ":61005")
	return a, b, backend, moved
}

// The reason for a guard by SYN flag. VM a's connections to port 61000 are gone at both ends but not in
// connection tracking, and port 61000 belongs to b's proxy by now. A new connection from the same port of a's
// then has the entry of the old one: it is translated to port 61000, whatever nat says today, and counts as
// established.
func TestOldTrackingEntry(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, b, backend, moved := remembered(t, m)
		listen(t, gateway+":61000", "b's proxy")
		others := social
		others.To = netip.MustParseAddrPort(gateway + ":61000")
		bind(t, backend, moved, others)
		again := func(from int) (string, error) {
			conn, who, err := a.dial(from, gateway+":8100")
			if conn != nil {
				conn.Close()
			}
			return who, err
		}

		if who, err := again(5001); !closedOut(err) {
			t.Errorf("with the guard: %q, %v", who, err)
		}
		m.shell(t, "nft flush chain ip vifproxy input")
		if who, err := again(5002); who != "b's proxy" {
			t.Errorf("without the guard: %q, %v; then what is it good for?", who, err)
		}
		bind(t, backend, moved, others)
		if who, err := again(5003); !closedOut(err) {
			t.Errorf("with the guard again: %q, %v", who, err)
		}
		if got := a.reach(gateway + ":8100"); got != "a's new proxy" {
			t.Errorf("a from another port: %s", got)
		}
		if got := b.reach(gateway + ":8100"); got != "b's proxy" {
			t.Errorf("b: %s", got)
		}
	})
}

// An AppVM whose vif went away with connections open, and came back: it is not to be refused for what it was
// connected to.
func TestForgetAll(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, _, backend, moved := remembered(t, m)
		bind(t, backend, moved)
		if _, who, err := a.dial(5001, gateway+":8100"); !closedOut(err) {
			t.Errorf("with what is remembered of the old connection: %q, %v; then there is nothing to forget", who, err)
		}
		open, _, err := a.dial(5004, gateway+":8100")
		must(t, err)
		defer open.Close()
		if n, err := testConfig.ForgetAll([]Binding{moved}); n == 0 || err != nil { // 3, unless the refused one is forgotten already
			t.Errorf("forgot %d connections, %v", n, err)
		}
		if _, who, err := a.dial(5002, gateway+":8100"); who != "a's new proxy" {
			t.Errorf("after that: %q, %v", who, err)
		}
		if who, err := ask(open); who != "a's new proxy" {
			t.Errorf("an open connection: %q, %v", who, err)
		}
		if n, err := testConfig.ForgetAll([]Binding{moved}); n != 0 || err != nil {
			t.Errorf("forgot %d connections, %v, of nothing", n, err)
		}
		if n, err := testConfig.ForgetAll(nil); n < 2 || err != nil { // a live one, too
			t.Errorf("forgot %d connections, %v, of an AppVM without a binding", n, err)
		}
	})
}

// The same with what is known of the connections of a proxy that has ended, and of nothing else.
func TestForget(t *testing.T) {
	onEach(t, func(t *testing.T, m machine) {
		a, _, backend, moved := remembered(t, m)
		client := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(personal.Addr, port) }
		bind(t, backend, moved)
		open, _, err := a.dial(5004, gateway+":8100")
		must(t, err)
		defer open.Close()
		must(t, Forget(personal.To, []netip.AddrPort{client(5002)}))
		if _, who, err := a.dial(5002, gateway+":8100"); who != "a's new proxy" {
			t.Errorf("what was to be forgotten: %q, %v", who, err)
		}
		if _, who, err := a.dial(5001, gateway+":8100"); !closedOut(err) {
			t.Errorf("what was not: %q, %v", who, err)
		}
		must(t, Forget(personal.To, []netip.AddrPort{client(5001), client(5002)})) // half of it is gone
		must(t, Forget(personal.To, []netip.AddrPort{client(5004)}))               // is not the old proxy's
		if who, err := ask(open); who != "a's new proxy" {
			t.Errorf("an open connection: %q, %v", who, err)
		}
	})
}
