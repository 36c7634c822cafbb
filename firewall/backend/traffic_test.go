package backend

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vifproxy/firewall"
	. "vifproxy/firewall/firewalltest"
	"vifproxy/internal/await"
)

func TestWhoReachesWhat(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, b := NewSite(t)
		web := Attach(t, "uplink", Internet, "192.0.2.1", 1)
		web.Do(func() error { Listen(t, Internet+":8100", "a host on the internet"); return nil })
		Listen(t, Gateway+":61000", "a's proxy")
		Listen(t, Gateway+":61001", "b's proxy")
		backend := open(t, m)
		expect := func(h *Host, to, want string) {
			t.Helper()
			if got := h.Reach(to); got != want {
				t.Errorf("%s to %s: %s, want %s", h.Addr, to, got, want)
			}
		}
		proxies := []uint16{61000, 61001}
		bind := func(t *testing.T, b firewall.Backend, want ...firewall.Binding) {
			Sync(t, b, firewall.State{Bindings: want, Guarded: proxies})
		}
		bind(t, backend)
		expect(a, Gateway+":8100", "closed out")
		expect(a, Gateway+":61000", "closed out")

		bind(t, backend, Personal)
		expect(a, Gateway+":8100", "a's proxy")
		expect(b, Gateway+":8100", "closed out")
		expect(b, Gateway+":61000", "closed out")
		expect(b, Gateway+":61001", "closed out")

		bind(t, backend, Personal, Social)
		expect(a, Gateway+":8100", "a's proxy")
		expect(b, Gateway+":8100", "b's proxy")
		expect(a, Gateway+":61001", "closed out")
		expect(b, Gateway+":61000", "closed out")
		expect(a, "192.0.2.1:8100", "a's proxy") // any address of the firewall VM is the firewall VM
		expect(a, Internet+":8100", "a host on the internet")
		expect(web, Gateway+":61000", "closed out")

		// The right address on the wrong vif.
		Must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: LinkIndex(t, "vif2.0"), Dst: Single(a.Addr)}))
		Must(t, b.Do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			return errors.Join(err, netlink.AddrAdd(eth0, &netlink.Addr{IPNet: Single(a.Addr)}))
		}))
		if m.Name != "qubes" { // there antispoof drops it before; nothing would come back to wait for
			spoofer := &Host{Addr: a.Addr, Calls: b.Calls}
			expect(spoofer, Gateway+":8100", "closed out")
			expect(spoofer, Gateway+":61000", "closed out")
		}
		Must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: LinkIndex(t, "vif1.0"), Dst: Single(a.Addr)}))

		bind(t, backend, Social)
		expect(a, Gateway+":8100", "closed out")
		expect(b, Gateway+":8100", "b's proxy")
		Must(t, backend.Remove(t.Context()))
		expect(b, Gateway+":8100", "closed out")
	})
}

// An open connection does not notice that its binding moves or goes, nor that the rules are loaded anew.
func TestEstablishedSurvives(t *testing.T) {
	OnEach(t, func(t *testing.T, m Machine) {
		a, _ := NewSite(t)
		Listen(t, Gateway+":61000", "old proxy")
		Listen(t, Gateway+":61005", "new proxy")
		backend := open(t, m)
		Bind(t, backend, Personal)
		conn, _, err := a.Dial(0, Gateway+":8100")
		Must(t, err)
		defer conn.Close()
		moved := Personal
		moved.To = netip.MustParseAddrPort(Gateway + ":61005")
		for _, step := range []struct {
			what string
			do   func()
			now  string
		}{
			{"bound", func() {}, "old proxy"},
			{"moved", func() { Bind(t, backend, moved) }, "new proxy"},
			{"loaded again", func() { backend = open(t, m); Bind(t, backend, moved) }, "new proxy"},
			{"unbound", func() { Bind(t, backend) }, "closed out"},
		} {
			step.do()
			if who, err := Ask(conn); err != nil || who != "old proxy" {
				t.Errorf("%s: connection has %q, %v", step.what, who, err)
			}
			if got := a.Reach(Gateway + ":8100"); got != step.now {
				t.Errorf("%s: new connection: %s, want %s", step.what, got, step.now)
			}
		}
	})
}

// While a binding moves, nobody is refused: a connection comes to the one proxy or to the other.
func TestMovesWithoutAGap(t *testing.T) {
	t.Cleanup(trackAtMost(1 << 20)) // it connects faster than anybody may else
	OnEach(t, func(t *testing.T, m Machine) {
		a, _ := NewSite(t)
		Listen(t, Gateway+":61000", "one")
		Listen(t, Gateway+":61005", "other")
		backend := open(t, m)
		Bind(t, backend, Personal)
		moves := 500
		if m.Name == "iptables-legacy" { // each takes a program
			moves = 50
		}
		over := make(chan struct{})
		refused := make(chan int)
		go func() {
			n := 0
			for {
				select {
				case <-over:
					refused <- n
					return
				default:
				}
				_ = a.Do(func() error {
					conn, err := net.DialTimeout("tcp4", Gateway+":8100", 20*time.Second)
					if err != nil {
						n++
						return err
					}
					return conn.Close()
				})
			}
		}()
		moved := Personal
		for i := range moves {
			moved.To = netip.AddrPortFrom(Personal.To.Addr(), uint16(61000+5*(i%2)))
			Bind(t, backend, moved)
		}
		close(over)
		if n := await.Value(t, "the end of the clients", refused); n > 0 {
			t.Errorf("%d connections refused while the binding moved %d times", n, moves)
		}
	})
}
