package supervisor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
)

func TestVerbs(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		step := func(what string, f func() (control.Status, error), social, work string) {
			t.Helper()
			status, err := f()
			if err != nil || status.VMs[0].State != social || status.VMs[1].State != work {
				t.Errorf("%s: %+v, %v; want %s and %s", what, status, err, social, work)
			}
		}
		step("stop", func() (control.Status, error) { return m.Stop(m.ctx, []string{"social"}) }, control.Stopped, control.Running)
		m.took()
		m.expect(m.after(time.Hour), "")
		if err := m.Reload(m.ctx); err != nil {
			t.Error(err)
		}
		if got := m.vm("social").State; got != control.Stopped {
			t.Errorf("SIGHUP let go what is held: %s", got)
		}
		step("start", func() (control.Status, error) { return m.Supervisor.Start(m.ctx, []string{"social"}) }, control.Running, control.Running)
		m.took()
		step("restart", func() (control.Status, error) { return m.Restart(m.ctx, []string{"work"}) }, control.Running, control.Running)
		m.expect(m.took(), `start work (10.137.0.2) at 10.138.1.1: w :4
			unbind vif2.0 10.137.0.2 :2
			bind vif2.0 10.137.0.2 :4`)
		step("kill-all", func() (control.Status, error) { return m.KillAll(m.ctx, false) }, control.Stopped, control.Stopped)
		if len(m.alive) != 0 {
			t.Errorf("kill-all left %v", m.alive)
		}
		step("update", func() (control.Status, error) { return m.Update(m.ctx) }, control.Stopped, control.Stopped)
		step("start", func() (control.Status, error) { return m.Supervisor.Start(m.ctx, []string{"social"}) }, control.Running, control.Stopped)
		step("kill-all-and-restart", func() (control.Status, error) { return m.KillAll(m.ctx, true) }, control.Running, control.Running)
		var unknown *control.UnknownError
		if _, err := m.Stop(m.ctx, []string{"social", "nobody"}); !errors.As(err, &unknown) {
			t.Errorf("unknown name: %v", err)
		}
		if got := m.vm("social").State; got != control.Running {
			t.Errorf("an unknown name stopped the known ones: %s", got)
		}
	})
}

// Two files of one name whose addresses are none are two rows, each with its own error.
func TestEachFileHasItsOwnError(t *testing.T) {
	run(t, func(m *machine) {
		m.file("banking.010.137.0.11", "a")
		m.file("banking.10.137.0.300", "a")
		m.after(time.Second)
		status, err := m.Status(m.ctx)
		if err != nil || len(status.VMs) != 2 {
			t.Fatalf("%+v, %v", status.VMs, err)
		}
		for i, want := range []string{"banking.010.137.0.11", "banking.10.137.0.300"} {
			if !strings.Contains(status.VMs[i].Error+status.VMs[1-i].Error, want) {
				t.Errorf("nothing is said of %s: %+v", want, status.VMs)
			}
		}
	})
}

func TestVerbsDoNotWaitForOthers(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.set(func() { m.delay = time.Hour })
		m.file("work.10.137.0.2", "a")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		m.set(func() { m.delay = time.Millisecond })
		ctx, cancel := context.WithTimeout(m.ctx, time.Minute)
		defer cancel()
		if _, err := m.Restart(ctx, []string{"social"}); err != nil {
			t.Errorf("restart of social, while work starts: %v", err)
		}
	})
}

// servedUntilBad has an AppVM served, and then writes rules for it that tinyproxy refuses.
func (m *machine) servedUntilBad() {
	m.set(func() {
		m.startErr = func(p *policy.Policy) error {
			if strings.Contains(p.Rules[0].Text, "bad") {
				return proxies.BadPolicy{Err: errors.New("bad regex")}
			}
			return nil
		}
	})
	m.file("social.10.137.0.1", "a")
	m.connect("vif1.0 10.137.0.1")
	m.after(time.Second)
	m.file("social.10.137.0.1", "bad")
}

// TestKillAllKeepsTheLastGoodRules: to restart all proxies is no stop, so rules that tinyproxy refuses take nothing away meanwhile.
func TestKillAllKeepsTheLastGoodRules(t *testing.T) {
	run(t, func(m *machine) {
		m.servedUntilBad()
		if _, err := m.KillAll(m.ctx, true); err != nil {
			t.Fatal(err)
		}
		m.after(time.Second)
		if got := m.vm("social"); got.State != control.Running || got.Error == "" {
			t.Errorf("after kill-all-and-restart: %+v; want the last good rules, and an error", got)
		}
	})
}

// TestUpdateWaitsForTheLastGoodRules: where the rules are refused once more, the last good ones have to be started
// again first when their process has died.
func TestUpdateWaitsForTheLastGoodRules(t *testing.T) {
	run(t, func(m *machine) {
		m.servedUntilBad()
		m.after(time.Second)
		m.proxy("social").gone("die", errors.New("killed"))
		m.took()
		status, err := m.Update(m.ctx)
		if err != nil || status.VMs[0].State != control.Running || status.VMs[0].Error == "" {
			t.Errorf("%+v, %v; want it running, with the error of its file", status, err)
		}
	})
}
