package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/pace"
	"vifproxy/internal/sockdiag"
)

var errFlushed = fmt.Errorf("nftables: %w: nft: killed", firewall.ErrUnfenced)

// serveTwo has two AppVMs served.
func serveTwo(m *machine) {
	m.file("social.10.137.0.1", "a")
	m.file("work.10.137.0.2", "a")
	m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
	m.after(time.Minute + time.Second) // past a look at everything
}

// TestPortsOfEndedProxiesAreNobodys: an update takes them out of the guard, also if nothing else is to be written.
func TestPortsOfEndedProxiesAreNobodys(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.file("social.10.137.0.1", "b")
		m.after(time.Minute)
		if _, err := m.Update(m.ctx); err != nil {
			t.Fatal(err)
		}
		m.set(func() {
			if len(m.guarded) != len(m.alive) || len(m.alive) != 2 {
				t.Errorf("guarded are %v, %d proxies run", m.guarded, len(m.alive))
			}
		})
	})
}

// TestNoFenceNoProxy: what somebody has undone and cannot be restored does not stay as it was last known.
func TestNoFenceNoProxy(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		told := watched(m)
		told()
		m.set(func() { m.fwErr = errFlushed })
		m.Wake(mailbox.Firewall)
		m.expect(m.after(pace.CheckInterval), "kill :1\nkill :2")
		for _, name := range []string{"social", "work"} {
			if vm := m.vm(name); vm.State != control.Failed || vm.Error != "firewall: "+errFlushed.Error() || vm.PID != 0 {
				t.Errorf("shown as %+v", vm)
			}
		}
		if got := told(); !strings.HasPrefix(got, "unfenced err="+errFlushed.Error()) || strings.Contains(got, "trouble") ||
			strings.Count(got, "proxy-ends") != 2 {
			t.Errorf("told:\n%s", got)
		}
		if m.set(func() {}); !strings.Contains(m.notified[len(m.notified)-1], "2 failed; social: firewall: ") {
			t.Errorf("STATUS: %q", m.notified)
		}

		// None starts, whatever comes, and the fence is tried again and again.
		m.set(func() { m.syncs = 0 })
		m.file("new.10.137.0.3", "a")
		m.after(time.Second)
		m.appears("10.137.0.3", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
		m.file("work.10.137.0.2", "a", "b")
		if _, err := m.Restart(m.ctx, []string{"work"}); err != nil {
			t.Error(err)
		}
		m.expect(m.after(time.Minute), "")
		if m.syncs < 15 {
			t.Errorf("%d tries in a minute", m.syncs)
		}
		m.set(func() { m.fwErr = nil })
		if c := counted(m.after(fenceRetryInterval + time.Second)); c["start"] != 3 || c["bind"] != 3 || c["kill"] != 0 {
			t.Errorf("it does not come back: %v", c)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" || vm.Restarts != 0 {
			t.Errorf("shown as %+v", vm)
		}
		if got := told(); !strings.Contains(got, "recovered what=firewall") {
			t.Errorf("told:\n%s", got)
		}
	})
}

// A check that fails says nothing of the fence, so that nothing is known of it. One that fails once is tried again first.
func TestCheckThatCannotTell(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		sync := m.config.Firewall
		fails := 1
		m.mail.Post(func(l *loop) { l.Firewall = &failing{Backend: sync, fails: &fails} })
		m.Wake(mailbox.Firewall)
		m.expect(m.after(time.Second), "")
		m.mail.Post(func(*loop) { fails = 2 })
		m.Wake(mailbox.Firewall)
		if c := counted(m.after(time.Second)); c["kill"] != 2 || c["start"] != 2 {
			t.Errorf("done: %v", c)
		}
	})
}

// TestWriteThatFailsEndsNothing: the fence stands, for what was looked at last.
func TestWriteThatFailsEndsNothing(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.set(func() { m.fwErr = errors.New("no space in the set") })
		m.file("work.10.137.0.2", "a", "b")
		m.expect(m.after(time.Second), "start work (10.137.0.2) at 10.138.1.1: a b :3")
		m.set(func() { m.fwErr = nil })
	})
}

func TestFirstFenceThatCannotBePutUpLetsNothingStart(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.fwErr = errFlushed })
		m.Wake(mailbox.Force)
		serveTwo(m)
		m.set(func() { m.fwErr = nil })
		if c := counted(m.after(time.Minute)); c["start"] != 2 || c["bind"] != 2 || c["kill"] != 0 {
			t.Errorf("done: %v", c)
		}
	})
}

// TestFenceThatSomebodyKeepsBreaking is not restored for ever while what it is to stop passes in between.
func TestFenceThatSomebodyKeepsBreaking(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		repairs := 0
		m.set(func() {
			m.undone = func() bool {
				repairs++
				return true
			}
		})
		breaks := func(n int) {
			for range n {
				m.Wake(mailbox.Firewall)
				time.Sleep(20 * time.Millisecond)
			}
		}
		breaks(pace.RepairsMax)
		m.expect(m.took(), "")
		if repairs != pace.RepairsMax {
			t.Errorf("%d repairs, want one at once for each of %d", repairs, pace.RepairsMax)
		}
		breaks(1)
		if c := counted(m.took()); c["kill"] != 2 || c["unbind"] != 2 || len(c) != 2 {
			t.Errorf("done: %v", c)
		}
		if vm := m.vm("work"); vm.State != control.Failed || vm.Error != "firewall: "+errUndone.Error() {
			t.Errorf("shown as %+v", vm)
		}
		breaks(500) // 10 s
		m.expect(m.took(), "")
		if repairs > pace.RepairsMax+20 {
			t.Errorf("%d repairs in 10 s of a fight", repairs)
		}
		m.set(func() { m.undone = nil })
		m.expect(m.after(pace.QuietFor/2), "")
		if c := counted(m.after(3 * pace.QuietFor)); c["start"] != 2 || c["bind"] != 2 || c["kill"] != 0 {
			t.Errorf("it does not come back: %v", c)
		}

		// Slowly it is no fight.
		m.set(func() { m.undone = func() bool { return true } })
		for range 20 {
			m.Wake(mailbox.Firewall)
			m.expect(m.after(pace.QuietFor/pace.RepairsMax), "")
		}
		m.set(func() { m.undone = nil })
	})
}

// TestEndDuringAFight is no failure: what is taken away is away.
func TestEndDuringAFight(t *testing.T) {
	for _, yields := range []bool{false, true} {
		run(t, func(m *machine) { endDuringAFight(t, m, yields) }) // which looks at how it ends
	}
}

func endDuringAFight(t *testing.T, m *machine, yields bool) {
	serveTwo(m)
	m.set(func() { m.undone = func() bool { return true } })
	for range 2 * pace.RepairsMax {
		m.Wake(mailbox.Firewall)
		time.Sleep(20 * time.Millisecond)
	}
	if vm := m.vm("work"); vm.Error != "firewall: "+errUndone.Error() {
		t.Errorf("shown as %+v", vm)
	}
	m.file("new.10.137.0.3", "a") // so that something is to be written at the end
	m.set(func() { m.undone, m.yields, m.rest = nil, yields, time.Second })
}

// TestCheckThatHangs: a firewall that does not answer is none.
func TestCheckThatHangs(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.set(func() { m.looking = checkTimeout + time.Second })
		m.Wake(mailbox.Firewall)
		m.expect(m.after(checkTimeout-time.Millisecond), "")
		m.expect(m.after(time.Millisecond), "kill :1\nkill :2")
		m.set(func() { m.looking = 0 })
		if c := counted(m.after(10 * time.Second)); c["start"] != 2 || c["bind"] != 2 {
			t.Errorf("it does not come back: %v", c)
		}
	})
}

// TestTheLoopDoesNotWaitForChecks: an AppVM that comes meanwhile has its proxy started at once, and bound when the check is over.
func TestTheLoopDoesNotWaitForChecks(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.file("new.10.137.0.3", "a")
		m.after(time.Minute)
		m.set(func() { m.looking = 200 * time.Millisecond })
		m.Wake(mailbox.Firewall)
		time.Sleep(time.Millisecond)
		m.appears("10.137.0.3", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
		m.expect(m.took(), "start new (10.137.0.3) at 10.138.1.1: a :3")
		m.expect(m.after(190*time.Millisecond), "")
		m.set(func() { m.looking = 0 })
		m.expect(m.after(time.Second), "bind vif3.0 10.137.0.3 :3")
	})
}

// TestATableOfBeforeSaysNothingOfAProxyThatHasComeUp: a check has read who listens, and the loop hears of it late.
func TestATableOfBeforeSaysNothingOfAProxyThatHasComeUp(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.file("new.10.137.0.3", "a")
		m.after(time.Minute)
		late, lost, reads := 100*time.Millisecond, uint16(0), 0
		listeners := func() (sockdiag.Listeners, error) {
			m.mu.Lock()
			reads++
			late := late
			all := sockdiag.Listeners{}
			for port, p := range m.alive {
				if port != lost {
					all[netip.AddrPortFrom(p.policy.Bind, port)] = sockdiag.Socket{}
				}
			}
			m.mu.Unlock()
			time.Sleep(late)
			return all, nil
		}
		m.mail.Post(func(l *loop) { l.Read.Listeners = listeners })
		m.Wake(mailbox.Firewall)
		time.Sleep(time.Millisecond)
		m.appears("10.137.0.3", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
		m.expect(m.after(time.Second), "start new (10.137.0.3) at 10.138.1.1: a :3\nbind vif3.0 10.137.0.3 :3")
		if reads == 0 {
			t.Error("nobody has read who listens")
		}
		m.set(func() { late, lost = 0, 3 }) // what a later table says counts
		m.Wake(mailbox.Firewall)
		if c := counted(m.after(10 * time.Second)); c["start"] != 1 || c["bind"] != 1 {
			t.Errorf("a proxy that does not listen any more: %v", c)
		}
	})
}

// TestWhatChangesDuringACheckIsCheckedAgain, and so are the chains of hook forward.
func TestWhatChangesDuringACheckIsCheckedAgain(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.after(time.Minute)
		m.set(func() { m.syncs, m.looking = 0, 100*time.Millisecond })
		m.Wake(mailbox.Firewall)
		time.Sleep(50 * time.Millisecond)
		m.set(func() { m.forward = firewall.Forward{Barred: []firewall.Bar{{Interface: "eth0", Rule: "rule 1"}}} })
		m.Wake(mailbox.Firewall)
		m.after(10 * time.Second)
		if m.syncs < 2 || m.syncs > 4 {
			t.Errorf("%d looks at the firewall, want one for each change, and one that bars eth0", m.syncs)
		}
		if status, _ := m.Status(m.ctx); len(status.Barred) != 1 || status.Barred[0].Interface != "eth0" {
			t.Errorf("barred: %v", status.Barred)
		}
	})
}

// TestABrokenFenceDoesNotWaitForAnEarlierCheck, however long that has taken: somebody may first change what does not matter.
func TestABrokenFenceDoesNotWaitForAnEarlierCheck(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.after(time.Minute)
		m.set(func() { m.looking = pace.CheckCostMax })
		m.Wake(mailbox.Firewall)
		m.after(pace.CheckCostMax + time.Millisecond)
		m.set(func() { m.syncs, m.looking = 0, 0 })
		m.Wake(mailbox.Firewall)
		if m.after(2 * pace.CheckInterval); m.syncs == 0 {
			t.Error("nobody has looked yet")
		}
	})
}

// TestCheckThatFailsOnceIsRepeated, whatever else the loop did meanwhile.
func TestCheckThatFailsOnceIsRepeated(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.after(time.Minute)
		m.set(func() { m.fwErr, m.looking, m.syncs = errors.New("no memory"), 100*time.Millisecond, 0 })
		m.Wake(mailbox.Firewall)
		time.Sleep(50 * time.Millisecond)
		m.Status(m.ctx) // which waits for the check
		m.set(func() { m.fwErr, m.looking = nil, 0 })
		m.expect(m.after(time.Minute), "")
		if m.syncs == 0 {
			t.Error("nobody has looked again")
		}
	})
}

// TestWriteThatHangsWhileSomebodyChangesTheFirewall: nobody looks meanwhile.
func TestWriteThatHangsWhileSomebodyChangesTheFirewall(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.set(func() { m.looking = 3 * checkTimeout })
		m.file("work.10.137.0.2", "a", "b")
		m.after(checkTimeout + time.Second)
		if len(m.alive) < 2 {
			t.Error("a slow write alone ends nothing")
		}
		m.Wake(mailbox.Firewall)
		if c := counted(m.after(checkTimeout)); c["kill"] == 0 || len(m.alive) > 0 {
			t.Errorf("done: %v", c)
		}
		m.set(func() { m.looking = 0 })
		m.after(time.Minute)
	})
}

// failing is a firewall that fails some times.
type failing struct {
	firewall.Backend
	fails *int
}

func (f *failing) Sync(ctx context.Context, want firewall.State, inForce func()) (int, error) {
	if *f.fails > 0 {
		*f.fails--
		return 0, errors.New("no memory")
	}
	return f.Backend.Sync(ctx, want, inForce)
}

// shut is a firewall beside a chain INPUT of iptables that cannot be written.
type shut struct {
	firewall.Backend
	err error
}

func (f *shut) Sync(ctx context.Context, want firewall.State, inForce func()) (int, error) {
	n, err := f.Backend.Sync(ctx, want, inForce)
	if err == nil {
		err = f.err
	}
	return n, err
}

// TestShutByIptablesEndsNothing: the fence stands, bindings are in force, and iptables is tried again and again.
func TestShutByIptablesEndsNothing(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		told := watched(m)
		told()
		outside := &shut{Backend: m.config.Firewall, err: fmt.Errorf("%w: the lock is held", firewall.ErrShut)}
		m.mail.Post(func(l *loop) { l.Firewall = outside })
		m.Wake(mailbox.Firewall)
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Running {
			t.Errorf("shown as %+v", vm)
		}
		if status, err := m.Status(m.ctx); err != nil || len(status.Problems) != 1 || status.Problems[0] != control.WayToProxies+": "+outside.err.Error() {
			t.Errorf("problems: %q", status.Problems)
		}
		m.connect("vif1.0 10.137.0.1") // a change is in force all the same
		if c := counted(m.after(time.Second)); c["unbind"] != 1 {
			t.Errorf("done: %v", c)
		}
		m.mail.Post(func(*loop) { outside.err = nil })
		m.after(time.Minute)
		if got := told(); !strings.Contains(got, "recovered what="+control.WayToProxies) {
			t.Errorf("told:\n%s", got)
		}
	})
}
