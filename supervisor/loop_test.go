package supervisor

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/pace"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
)

func TestUpAndDownInOrder(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.expect(m.after(time.Second), "")
		if got := m.vm("social").State; got != control.Waiting {
			t.Errorf("not connected: %s", got)
		}
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a :1
			bind vif1.0 10.137.0.1 :1`)
		if vm := m.vm("social"); vm.State != control.Running || vm.PID != 1001 || vm.Port != 1 {
			t.Errorf("running: %+v", vm)
		}
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.1")
		m.expect(m.after(time.Second), "bind vif2.0 10.137.0.1 :1")
		m.connect("vif2.0 10.137.0.1")
		m.expect(m.after(time.Second), "unbind vif1.0 10.137.0.1 :1")
		m.connect()
		m.expect(m.after(time.Second), "unbind vif2.0 10.137.0.1 :1\nstop :1")
	})
}

// TestAbandonedButComesUp gives the order to end before there is a process that could be told.
func TestAbandonedButComesUp(t *testing.T) {
	run(t, func(m *machine) {
		m.set(func() { m.delay, m.stubborn = time.Second, true })
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(500*time.Millisecond), "start social (10.137.0.1) at 10.138.1.1: a :1")
		m.connect()
		m.expect(m.after(100*time.Millisecond), "")
		m.expect(m.after(time.Second), "stop :1")
		ports := make(chan bool)
		m.mail.Post(func(l *loop) { ports <- l.ports.InUse(1) || len(l.vms) > 0 })
		if <-ports {
			t.Error("it is not forgotten")
		}
		m.connect("vif1.0 10.137.0.1")
		m.after(500 * time.Millisecond) // and it is on its way up when the daemon stops
	})
}

func TestBadInputsKeepTheLastGood(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)

		m.file("social.10.137.0.1", "a b") // white space: refused by us
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Running || !strings.Contains(vm.Error, "social.10.137.0.1:1") {
			t.Errorf("own parse: %+v", vm)
		}

		m.set(func() {
			m.startErr = func(p *policy.Policy) error {
				if strings.Contains(p.Rules[0].Text, "bad") {
					return proxies.BadPolicy{Err: errors.New("bad regex at line 1")}
				}
				return nil
			}
		})
		m.file("social.10.137.0.1", "bad") // refused by tinyproxy
		got := m.after(250 * time.Millisecond)
		if n := strings.Count(got, "start social"); n != 2 || strings.Contains(got, "unbind") || strings.Contains(got, "kill") {
			t.Errorf("tinyproxy's refusal, tried twice so far:\n%s", got)
		}
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "bad regex at line 1" {
			t.Errorf("tinyproxy's refusal: %+v", vm)
		}

		m.file("config", "{port}") // for all
		m.after(time.Second)
		for _, name := range []string{"social", "work"} {
			if vm := m.vm(name); vm.State != control.Running || !strings.Contains(vm.Error, "config") {
				t.Errorf("template: %+v", vm)
			}
		}

		m.proxy("social").gone("die", errors.New("killed")) // and it is the last good one that comes back
		got = m.after(time.Second)
		if !strings.Contains(got, "start social (10.137.0.1) at 10.138.1.1: a :") || !strings.Contains(got, "bind vif1.0") {
			t.Errorf("after the last good one died:\n%s", got)
		}

		m.remove("config")
		m.file("social.10.137.0.1", "c")
		m.after(time.Second)
		if vm := m.vm("social"); vm.State != control.Running || vm.Error != "" {
			t.Errorf("mended: %+v", vm)
		}
	})
}

func TestWithoutALastGoodThereIsNone(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a b")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("social"); vm.State != control.Refused || vm.PID != 0 {
			t.Errorf("%+v", vm)
		}
	})
}

func TestWhatCannotBeReadChangesNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.linksErr, m.rulesErr = errors.New("no netlink"), errors.New("permission denied") })
		m.remove("social.10.137.0.1")
		m.connect()
		m.expect(m.after(time.Minute), "")
		status, err := m.Status(m.ctx)
		if err != nil || len(status.Problems) != 2 {
			t.Errorf("%+v, %v", status, err)
		}
		m.set(func() { m.rulesErr = nil }) // the AppVM still seems to be there: the end is at once
		m.expect(m.after(time.Minute), "unbind vif1.0 10.137.0.1 :1\nkill :1")
		m.set(func() { m.linksErr = nil })
		m.expect(m.after(time.Minute), "")
	})
}

func TestReadyComesAfterTheFirstReconcile(t *testing.T) {
	run(t, func(m *machine) {
		if len(m.notified) != 2 || m.notified[1] != "READY=1" {
			t.Errorf("%q", m.notified)
		}
		m.after(time.Hour)
		if len(m.notified) != 2 {
			t.Errorf("an hour of nothing was news: %q", m.notified)
		}
	})
}

func TestIdleLoopRests(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Minute)
		m.set(func() { m.syncs = 0 })
		m.expect(m.after(time.Hour), "")
		if m.syncs > 120 {
			t.Errorf("%d rounds in an hour of nothing, want one every 30 s", m.syncs)
		}
	})
}

func TestHintsOfAnotherManagerDoNotMakeAFight(t *testing.T) {
	run(t, func(m *machine) {
		m.after(time.Minute)
		m.set(func() { m.syncs, m.looking = 0, 2*time.Millisecond })
		const seconds = 20
		for range 1000 * seconds {
			m.Wake(mailbox.Firewall)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		most := int((seconds*time.Second/pace.CheckShare + pace.CheckBurst) / m.looking)
		if m.syncs < 10*seconds || m.syncs > most+2 {
			t.Errorf("%d looks at the firewall in %d s of hints, want %d at most", m.syncs, seconds, most)
		}
	})
}

// TestLastGoodIsWhatServedLast: rules that were taken back are not the last good ones, although their process came up
// later than the one that serves again.
func TestLastGoodIsWhatServedLast(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.file("social.10.137.0.1", "a", "b")
		m.after(time.Second)
		m.file("social.10.137.0.1", "a") // the first process, which has connections, serves again
		m.expect(m.after(time.Second), `unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :1
			kill :2`)
		m.file("social.10.137.0.1", "a b")
		m.expect(m.after(time.Second), "")
		if vm := m.vm("social"); vm.State != control.Running || vm.Port != 1 || vm.Error == "" {
			t.Errorf("with a file that is refused: %+v", vm)
		}
	})
}

// TestFilesOfNoAppVM are refused, shown, and told of once.
func TestFilesOfNoAppVM(t *testing.T) {
	run(t, func(m *machine) {
		told := watched(m)
		told()
		for _, name := range []string{"bank.fd00::1", "social.10.0.0.256", "work.10.0.0.300"} {
			m.file(name, "a")
		}
		m.after(time.Second)
		if n := strings.Count(told(), "rules-refused"); n != 3 {
			t.Errorf("told %d times", n)
		}
		m.file("personal.10.137.0.1", `^a\.example$`)
		m.after(time.Second)
		m.expect(told(), "rules-found vm=personal")
		if vm := m.vm("bank"); vm.State != control.Refused || vm.IP != "fd00::1" {
			t.Error(vm)
		}
	})
}
