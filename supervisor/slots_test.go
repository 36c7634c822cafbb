package supervisor

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
)

// TestClientsThatHoldAllSlots: after a minute another process serves who waits, and the clients keep their connections. Of such older
// processes two stay. If no other process starts, one more is not tried each minute.
func TestClientsThatHoldAllSlots(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		hold := func() {
			m.set(func() {
				newest := slices.Max(slices.Collect(maps.Keys(m.alive)))
				m.alive[newest].held = []netip.AddrPort{netip.MustParseAddrPort("10.137.0.1:40000")}
			})
		}
		const minute = proxies.HeldTime + proxies.HeldInterval + time.Second
		hold()
		m.expect(m.after(proxies.HeldTime-time.Second), "")
		m.expect(m.after(time.Second+proxies.HeldInterval), "start social (10.137.0.1) at 10.138.1.1: a :2\n"+
			"unbind vif1.0 10.137.0.1 :1\nbind vif1.0 10.137.0.1 :2")
		m.expect(m.after(10*time.Minute), "") // nobody waits for the other one
		hold()
		m.expect(m.after(minute), "start social (10.137.0.1) at 10.138.1.1: a :3\n"+
			"unbind vif1.0 10.137.0.1 :2\nbind vif1.0 10.137.0.1 :3")
		hold()
		m.expect(m.after(minute), "start social (10.137.0.1) at 10.138.1.1: a :4\n"+
			"unbind vif1.0 10.137.0.1 :3\nbind vif1.0 10.137.0.1 :4\nstop :1")
		m.set(func() { m.startErr = func(*policy.Policy) error { return errors.New("no memory") } })
		hold()
		m.after(minute)
		before := ""
		m.mail.Post(func(l *loop) { before = l.vms[netip.MustParseAddr("10.137.0.1")].current.Policy.Key() })
		m.after(10 * time.Minute)
		m.mail.Post(func(l *loop) {
			if n := l.inputs.Restarts[netip.MustParseAddr("10.137.0.1")]; n != 4 {
				t.Errorf("%d processes were asked for, want 4", n)
			}
			if now := l.vms[netip.MustParseAddr("10.137.0.1")].current.Policy.Key(); now != before {
				t.Error("another one serves")
			}
		})
		m.after(time.Second)
	})
}
