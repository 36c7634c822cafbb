package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/proxies"
)

func TestChangeMovesTheBindingOnceTheNewOneListens(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)

		m.file("social.10.137.0.1", "a", "b")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: a b :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2`)
		m.expect(m.after(10*time.Minute), "")
		m.set(func() { m.alive[1].idle = true })
		m.expect(m.after(2*time.Second), "stop :1")

		m.file("social.10.137.0.1", "b")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: b :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			kill :2`)
		m.file("social.10.137.0.1", "# a comment", "b")
		m.expect(m.after(time.Minute), "")
	})
}

// TestOldTunnelOutlivesManyAdditions has more changes within a second than older processes may stay.
func TestOldTunnelOutlivesManyAdditions(t *testing.T) {
	run(t, func(m *machine) {
		lines := []string{"a"}
		m.file("social.10.137.0.1", lines...)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		tunnel := m.proxy("social")
		for i := range 10 {
			lines = append(lines, fmt.Sprint("a", i))
			m.file("social.10.137.0.1", lines...)
			m.after(50 * time.Millisecond)
			m.set(func() {
				for _, p := range m.alive {
					p.idle = p != tunnel
				}
			})
		}
		m.after(time.Minute)
		if m.set(func() {}); m.alive[tunnel.port] != tunnel || len(m.alive) != 2 {
			t.Errorf("the tunnel's process should live, and only it beside the newest: %v", m.alive)
		}
	})
}

// TestAdditionsCutNothing: each leaves a process with connections, and all of them go on. Where these are too many, the one that
// serves fewest ends, and it is told how many connections that cut.
func TestAdditionsCutNothing(t *testing.T) {
	run(t, func(m *machine) {
		told := watched(m)
		lines := []string{"a"}
		m.file("social.10.137.0.1", lines...)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		for i := range limits.Generations + 1 {
			m.set(func() { m.alive[uint16(i+1)].more = 30 - i })
			if c := counted(m.took()); c["stop"]+c["kill"] != 0 {
				t.Errorf("addition %d has cut something: %v", i, c)
			}
			lines = append(lines, fmt.Sprint("a", i))
			m.file("social.10.137.0.1", lines...)
			if i < limits.Generations {
				m.after(2 * time.Second)
			}
		}
		told()
		m.expect(m.after(2*time.Second), `start social (10.137.0.1) at 10.138.1.1: a a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 a10 a11 a12 a13 a14 a15 a16 :18
			unbind vif1.0 10.137.0.1 :17
			bind vif1.0 10.137.0.1 :18
			stop :17`)
		if got, want := told(), "proxy-ends vm=social port=17 why=too many older processes connections=15"; !strings.Contains(got, want) {
			t.Errorf("told:\n%s\nwant %s", got, want)
		}
	})
}

// TestOfThoseThatServeAsFewTheOldestEnds: the one that has just been replaced serves somebody too.
func TestOfThoseThatServeAsFewTheOldestEnds(t *testing.T) {
	run(t, func(m *machine) {
		lines := []string{"a"}
		m.file("social.10.137.0.1", lines...)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		var last string
		for i := range limits.Generations + 1 {
			m.set(func() { m.alive[uint16(i+1)].more = 1 })
			lines = append(lines, fmt.Sprint("a", i))
			m.file("social.10.137.0.1", lines...)
			last = m.after(2 * time.Second)
		}
		if !strings.Contains(last+"\n", "stop :1\n") || counted(last)["stop"] != 1 {
			t.Errorf("the oldest should have ended, and it alone:\n%s", last)
		}
	})
}

// TestVerbsTellWhatTheyCut: the connections of those AppVMs alone.
func TestVerbsTellWhatTheyCut(t *testing.T) {
	run(t, func(m *machine) {
		serveTwo(m)
		m.set(func() { m.alive[1].more, m.alive[2].more = 2, 4 })
		if status, err := m.Update(m.ctx); err != nil || status.Cut != 0 {
			t.Errorf("update: %d, %v", status.Cut, err)
		}
		if status, err := m.Stop(m.ctx, []string{"social"}); err != nil || status.Cut != 3 {
			t.Errorf("stop: %d, %v; want 3", status.Cut, err)
		}
		if status, err := m.Restart(m.ctx, []string{"work"}); err != nil || status.Cut != 0 {
			t.Errorf("restart leaves connections: %d, %v", status.Cut, err)
		}
		if status, err := m.KillAll(m.ctx, true); err != nil || status.Cut != 6 { // and one of the new process
			t.Errorf("kill-all-and-restart: %d, %v; want 6", status.Cut, err)
		}
	})
}

func TestEmptyFileIsWaitedFor(t *testing.T) {
	for file, name := range map[string]string{"social.10.137.0.1": "social", "social.10.137.0.0_24": "social-10.137.0.1"} {
		t.Run(file, func(t *testing.T) { testEmptyFileIsWaitedFor(t, file, name) })
	}
}

func testEmptyFileIsWaitedFor(t *testing.T, file, name string) {
	run(t, func(m *machine) {
		m.file(file, "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		empty := func() {
			if err := os.Truncate(filepath.Join(m.dir, file), 0); err != nil {
				t.Fatal(err)
			}
			m.Wake(mailbox.Rules)
		}
		empty() // as `command >file` does long before the command writes
		m.expect(m.after(50*time.Millisecond), "")
		m.file(file, "a", "b")
		if got := m.after(time.Second); !strings.Contains(got, ": a b :2") || strings.Contains(got, "kill") {
			t.Errorf("written in place:\n%s", got)
		}
		empty() // and now it is meant
		m.expect(m.after(time.Second), "start "+name+` (10.137.0.1) at 10.138.1.1:  :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			kill :1
			kill :2`)
		m.file(file, "a")
		m.after(time.Second)
		empty()
		if _, err := m.Update(m.ctx); err != nil || !strings.Contains(m.took(), "kill :4") {
			t.Errorf("update waits for no writer: %v", err)
		}
	})
}

// TestRequestsUnderWayAreAnswered: with what was revoked ends the process that served it, but not before it has
// answered, unless that takes too long.
func TestRequestsUnderWayAreAnswered(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a", "b")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.file("social.10.137.0.1", "a")
		m.expect(m.after(30*time.Millisecond), `start social (10.137.0.1) at 10.138.1.1: a :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2`)
		m.set(func() { m.alive[1].idle = true })
		m.expect(m.after(proxies.FinishInterval), "kill :1")

		m.file("social.10.137.0.1", "b") // and this time a tunnel is open
		m.after(50 * time.Millisecond)
		m.expect(m.after(45*time.Millisecond), "kill :2")

		m.set(func() { m.delay = 150 * time.Millisecond }) // a machine that is slow now
		m.file("social.10.137.0.1", "a")
		m.after(300 * time.Millisecond)
		m.expect(m.after(25*time.Millisecond), "kill :3")
		m.set(func() { m.delay = time.Second })
		m.file("social.10.137.0.1", "b")
		m.after(1250 * time.Millisecond)
		m.expect(m.after(15*time.Millisecond), "kill :4")
		if m.set(func() {}); !slices.Equal(m.forgotten, []uint16{2, 3, 4}) {
			t.Errorf("connections to %d are forgotten, want those of the processes that still had some", m.forgotten)
		}
	})
}

// TestRestOfAWriteHoldsUpNothing: iptables takes long to take away what nobody needs any more. A change meanwhile starts its
// process at once; only its write has to wait.
func TestRestOfAWriteHoldsUpNothing(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.alive[1].idle, m.rest = true, 40*time.Millisecond })
		m.file("social.10.137.0.1", "b")
		m.expect(m.after(quietPeriod+3*time.Millisecond+proxies.FinishInterval), `start social (10.137.0.1) at 10.138.1.1: b :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2
			kill :1`)
		m.file("social.10.137.0.1", "c")
		m.expect(m.after(quietPeriod+time.Millisecond), "start social (10.137.0.1) at 10.138.1.1: c :3")
		m.expect(m.after(20*time.Millisecond), "")
		m.expect(m.after(20*time.Millisecond), "unbind vif1.0 10.137.0.1 :2\nbind vif1.0 10.137.0.1 :3")
	})
}

func TestRestOfAWriteIsPutOff(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.rest, m.yields = 150*time.Millisecond, true })
		m.file("social.10.137.0.1", "b")
		m.after(20 * time.Millisecond)
		m.file("social.10.137.0.1", "c")
		m.expect(m.after(quietPeriod+3*time.Millisecond), `start social (10.137.0.1) at 10.138.1.1: c :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3`)

		// A question puts off nothing: that rest is done, with no more writes than one when the old process has ended.
		m.set(func() { m.syncs, m.putOff = 0, 0 })
		asked := time.Now()
		if vm := m.vm("social"); vm.Port != 3 || time.Since(asked) > m.rest {
			t.Errorf("after %v: %+v", time.Since(asked), vm)
		}
		if m.after(time.Second); m.syncs > 1 || m.putOff > 0 {
			t.Errorf("%d writes more, want one; %d are put off", m.syncs, m.putOff)
		}
		m.mail.Post(func(l *loop) {
			if l.holds == nil || l.writing != nil || len(l.freed) > 0 {
				t.Errorf("it is not complete: ports %v are not free", l.freed)
			}
		})
		m.took()
	})
}

// TestPutOffIsNoFailure: what could not be written before is in force, and only the rest of that write waits.
func TestPutOffIsNoFailure(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.rest, m.yields, m.fwErr = 5*time.Second, true, errors.New("busy") })
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.fwErr = nil })
		done := ""
		for i := 0; done == "" && i < 60; i++ {
			done = m.after(time.Second)
		}
		m.expect(done, "bind vif1.0 10.137.0.1 :1")
		if status, err := m.Status(m.ctx); err != nil || len(status.Problems) > 0 {
			t.Error(status.Problems, err)
		}
	})
}

// TestRestOfAWriteFails: what is in force stays so, and the rest is done later.
func TestRestOfAWriteFails(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.rest, m.restErr = 40*time.Millisecond, errors.New("xtables lock is held") })
		m.file("social.10.137.0.1", "b")
		m.after(200 * time.Millisecond)
		status, err := m.Status(m.ctx)
		if err != nil || len(status.Problems) != 1 || status.Problems[0] != "firewall: xtables lock is held" ||
			status.VMs[0].State != control.Running || status.VMs[0].Port != 2 {
			t.Errorf("%+v, %v", status, err)
		}
		// The port of the process that has ended is not given away as long as the firewall may know it.
		m.mail.Post(func(l *loop) {
			if !l.ports.InUse(1) {
				t.Error("port 1 is free")
			}
		})
		m.set(func() { m.restErr, m.syncs = nil, 0 })
		m.after(time.Minute)
		m.mail.Post(func(l *loop) {
			if l.ports.InUse(1) {
				t.Error("port 1 is never free again")
			}
		})
		if status, _ := m.Status(m.ctx); m.syncs == 0 || len(status.Problems) != 0 {
			t.Errorf("after %d more writes: %q", m.syncs, status.Problems)
		}
	})
}

// TestPortIsTakenAsLongAsItIsBound: a process may have died since the write began that is complete now.
func TestPortIsTakenAsLongAsItIsBound(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.mail.Post(func(l *loop) {
			l.freed = []uint16{1, 2}
			l.ports.Use(2)
			l.release(m.bindings)
			if !l.ports.InUse(1) || l.ports.InUse(2) || !slices.Equal(l.freed, []uint16{1}) {
				t.Errorf("ports in use: %v, still to be freed: %v; want 1, which is bound", l.ports.AllInUse(), l.freed)
			}
			l.release(nil)
			if l.ports.InUse(1) || len(l.freed) > 0 {
				t.Errorf("ports in use: %v, still to be freed: %v; want none", l.ports.AllInUse(), l.freed)
			}
			l.ports.Use(1) // as it is
		})
		m.took()
	})
}

// TestFirewallIsNotReadForAStart: the way of a change is short. But what the loop believes is checked now and then.
func TestFirewallIsNotReadForAStart(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.syncs = 0 })
		m.file("social.10.137.0.1", "a", "b")
		if m.after(time.Second); m.syncs != 1 {
			t.Errorf("the firewall was read %d times for one change", m.syncs)
		}
		m.set(func() { m.bindings = nil }) // flushed
		m.Wake(mailbox.Firewall)
		m.expect(m.after(time.Second), "bind vif1.0 10.137.0.1 :2")
		m.set(func() { m.bindings = nil })
		m.expect(m.after(time.Minute), "bind vif1.0 10.137.0.1 :2")
	})
}
