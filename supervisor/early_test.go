package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/netwatch"
)

// appears connects AppVMs and hints at one of them only.
func (m *machine) appears(who string, vifs ...string) {
	m.set(func() { m.looks, m.reads = 0, 0 })
	m.link(vifs...)
	m.Hint(netwatch.Hint{Link: 7, Host: netip.MustParseAddr(who)})
	synctest.Wait()
}

func TestHintStartsWithoutReadingAll(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.appears("10.137.0.1", "vif1.0 10.137.0.1")
		m.expect(m.took(), "start social (10.137.0.1) at 10.138.1.1: a :1")
		m.expect(m.after(time.Second), "bind vif1.0 10.137.0.1 :1")
		if m.looks != 1 || m.reads != 0 {
			t.Errorf("%d looks at the AppVM, %d readings of all, want one look", m.looks, m.reads)
		}

		m.appears("10.137.0.1", "vif1.0 10.137.0.1") // once more
		if m.expect(m.after(time.Second), ""); m.reads != 0 {
			t.Errorf("all was read, %d times, for what is as it was", m.reads)
		}
		m.appears("10.137.0.1") // it has gone, and who knows what else
		m.expect(m.after(time.Second), "unbind vif1.0 10.137.0.1 :1\nstop :1")
		if m.reads != 1 {
			t.Errorf("%d readings, want one of all", m.reads)
		}
	})
}

func TestHintAtNothingReadsNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.appears("10.137.0.9")
		if m.expect(m.after(time.Second), ""); m.looks != 1 || m.reads != 0 {
			t.Errorf("%d looks, %d readings, want one look", m.looks, m.reads)
		}
		m.mail.Post(func(*loop) { // while the loop is busy
			for range mailbox.HintsMax + 1 {
				m.Hint(netwatch.Hint{Link: 7})
			}
		})
		if m.after(time.Second); m.reads != 1 {
			t.Errorf("more hints than are kept, and all was read %d times", m.reads)
		}
	})
}

// TestHintAtAnotherVif: the AppVM is known by one, so that what there is is read.
func TestHintAtAnotherVif(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.mail.Post(func(l *loop) {
			l.Read.LinksAt = func(netwatch.Hint) (netwatch.Snapshot, error) {
				return netwatch.Snapshot{{Addr: netip.MustParseAddr("10.137.0.1"), Gateway: gateway, Vifs: []string{"vif2.0"}, Links: []int32{3}}}, nil
			}
		})
		m.link("vif1.0 10.137.0.1", "vif2.0 10.137.0.1")
		m.Hint(netwatch.Hint{Link: 8})
		m.expect(m.after(time.Second), "bind vif2.0 10.137.0.1 :1")
	})
}

// TestHintBeforeOneThatTellsNothing: all is read because of the second, and finds nothing that the first has not told.
func TestHintBeforeOneThatTellsNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a b") // refused: nothing to start, but to be shown
		m.after(time.Second)
		look := m.config.Read.LinksAt
		m.mail.Post(func(l *loop) {
			l.Read.LinksAt = func(h netwatch.Hint) (netwatch.Snapshot, error) {
				if h.Link == 9 {
					return nil, errors.New("busy")
				}
				return look(h)
			}
			m.link("vif1.0 10.137.0.1")
			m.Hint(netwatch.Hint{Link: 7, Host: netip.MustParseAddr("10.137.0.1")})
			m.Hint(netwatch.Hint{Link: 9})
		})
		m.after(time.Second)
		if vm := m.vm("social"); len(vm.Interfaces) != 1 {
			t.Errorf("it is not shown as connected: %+v", vm)
		}
	})
}

// TestHintStartsNothingElse than a plan would.
func TestHintStartsNothingElse(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("other.10.137.0.1", "b") // two for one address: both are refused
		m.file("held.10.137.0.2", "c")
		m.after(time.Second)
		if _, err := m.Stop(m.ctx, []string{"held"}); err != nil {
			t.Error(err)
		}
		m.appears("10.137.0.1", "vif1.0 10.137.0.1")
		m.appears("10.137.0.2", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.appears("10.137.0.3", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
		m.expect(m.after(time.Second), "")
	})
}

// TestFirstProxyDoesNotWaitForAPlan about all, which then finds nothing to do: it would write the firewall once more if
// what it says, or the order, were another.
func TestFirstProxyDoesNotWaitForAPlan(t *testing.T) {
	run(t, func(m *machine) {
		var vifs []string
		for i, ip := range []string{"10.137.0.2", "10.137.0.3", "10.137.0.1"} {
			m.file(fmt.Sprintf("vm%d.%s", i, ip), "a", "#: egress "+strings.Replace(ip, "137", "9", 1)+":22")
		}
		m.after(time.Second)
		for i, ip := range []string{"10.137.0.2", "10.137.0.3", "10.137.0.1"} {
			var planned, later time.Time
			m.mail.Post(func(l *loop) { planned = l.plannedAt })
			m.set(func() { m.syncs = 0 })
			before := m.after(time.Second)
			vifs = append(vifs, fmt.Sprintf("vif%d.0 %s", i, ip))
			m.appears(ip, vifs...)
			got := m.after(lonePlanDelay / 2)
			if c := counted(got); before != "" || c["start"] != 1 || c["bind"] != 1 || c["fence"] != 1 {
				t.Errorf("done:\n%s\nwant a start, and a proxy bound with its hole", got)
			}
			if m.mail.Post(func(l *loop) { later = l.plannedAt }); m.took() != "" || later != planned {
				t.Error("there was a plan for all")
			}
			status, err := m.Status(m.ctx)
			if j := slices.IndexFunc(status.VMs, func(vm control.VM) bool { return vm.IP == ip }); err != nil ||
				status.VMs[j].State != control.Running || status.VMs[j].PID == 0 {
				t.Error(status.VMs, err)
			}
			m.after(lonePlanDelay)
			if m.mail.Post(func(l *loop) { later = l.plannedAt }); m.took() != "" || later == planned {
				t.Error("there was no plan for all, or one that did something")
			}
			if m.syncs != 2 {
				t.Errorf("%d firewall writes, want one that opens the hole and one that binds", m.syncs)
			}
		}
	})
}

// TestFirewallFailsForAFirstProxy: it is shown, and tried again.
func TestFirewallFailsForAFirstProxy(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.fwErr = errors.New("busy") })
		m.appears("10.137.0.1", "vif1.0 10.137.0.1")
		m.expect(m.after(fullPlanDelay), "start social (10.137.0.1) at 10.138.1.1: a :1")
		if vm := m.vm("social"); vm.State != control.Failed {
			t.Error(vm)
		}
		m.set(func() { m.fwErr = nil })
		m.expect(m.after(time.Minute), "bind vif1.0 10.137.0.1 :1")
	})
}

// TestManyThatComeUpTogetherAreOneWrite, about all of them: with iptables each takes tens of milliseconds, and what is to end
// would wait for all.
func TestManyThatComeUpTogetherAreOneWrite(t *testing.T) {
	run(t, func(m *machine) {
		var vifs []string
		for i := range bulkStart - 1 {
			ip := fmt.Sprintf("10.137.0.%d", i+1)
			m.file(fmt.Sprintf("vm%d.%s", i, ip), "a")
			vifs = append(vifs, fmt.Sprintf("vif%d.0 %s", i+1, ip))
		}
		m.after(time.Second)
		m.connect(vifs...)
		m.after(time.Millisecond)
		m.set(func() { m.syncs = 0 })
		m.mail.Post(func(*loop) { time.Sleep(5 * time.Millisecond) }) // until all are up
		m.expectCounts(m.after(time.Second), 1, map[string]int{"bind": len(vifs)})
	})
}

// TestOneDiesAsAnotherComesUp: to write once more what leads to it would be a binding to a port where nobody listens.
func TestOneDiesAsAnotherComesUp(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.appears("10.137.0.2", "vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.mail.Post(func(*loop) { time.Sleep(5 * time.Millisecond) })
		time.Sleep(4 * time.Millisecond)
		m.proxy("social").gone("die", errors.New("killed"))
		if c := counted(m.after(time.Second)); c["unbind"] != 1 || c["bind"] != 2 {
			t.Errorf("done: %v", c) // and the fake firewall has its say
		}
	})
}

// TestNoPlanIsInTheWayOfAnAppVMThatComes: Qubes changes the firewall just before, and the check that follows takes the port away that an
// AppVM has left. Records of what goes on working are written at that time too. All that can wait for a plan.
func TestNoPlanIsInTheWayOfAnAppVMThatComes(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "a")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Minute + time.Second)
		planned := func() (at time.Time) {
			m.mail.Post(func(l *loop) { at = l.plannedAt })
			synctest.Wait()
			return at
		}
		before := planned()
		m.Trouble(events.Impaired, "record", func() error { return nil })
		m.mail.Post(func(l *loop) { // as after an AppVM has gone
			left := *l.last
			left.Guarded = append(slices.Clone(left.Guarded), 9)
			l.last, l.holds = &left, &left
		})
		m.Wake(mailbox.Firewall)
		if m.after(lonePlanDelay / 2); planned() != before {
			t.Error("there was a plan at once")
		}
		if m.after(lonePlanDelay); planned() == before {
			t.Error("there was no plan later: this shows nothing")
		}
		before = planned()
		m.Trouble(events.Impaired, "record", func() error { return errors.New("no room") })
		if m.after(time.Millisecond); planned() == before {
			t.Error("no plan follows a trouble")
		}
		before = planned()
		m.Trouble(events.Impaired, "record", func() error { return nil })
		if m.after(time.Millisecond); planned() == before {
			t.Error("no plan follows the end of a trouble")
		}
	})
}
