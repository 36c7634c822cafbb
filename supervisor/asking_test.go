package supervisor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
)

// A question changes nothing: the write under way is neither put off nor waited for, and what the fence has refused is counted
// for those alone who are shown it.
func TestAskingDoesNotWrite(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.rest, m.yields, m.refused = 500*time.Millisecond, true, map[uint32]uint64{0x70890001: 7} })
		m.connect("vif1.0 10.137.0.1")
		m.after(100 * time.Millisecond) // bound, and the rest of the write is under way
		m.set(func() {
			if !m.busy {
				t.Fatal("no write is under way")
			}
			m.counted, m.putOff = 0, 0
		})
		began := time.Now()
		if _, err := m.Denied(m.ctx, []string{"social"}, time.Time{}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(m.ctx)
		_ = m.Watch(ctx, []string{"social"}, func(events.Event) error { cancel(); return nil })
		known, err := m.AppVMs(m.ctx)
		if err != nil || len(known.VMs) != 1 || known.VMs[0].State != control.Running {
			t.Errorf("%+v, %v", known, err)
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("questions that need nothing of the firewall have taken %v", took)
		}
		m.set(func() {
			if m.counted > 0 || m.putOff > 0 {
				t.Errorf("counted %d times, put off %d writes", m.counted, m.putOff)
			}
		})
		if n := m.vm("social").EgressRefused; n != 7 {
			t.Errorf("%d are shown as refused, want 7", n)
		}
		synctest.Wait()
		m.set(func() {
			if m.counted != 1 || m.putOff > 0 || m.busy {
				t.Errorf("shown while busy: %v, counted %d times, put off %d writes", m.busy, m.counted, m.putOff)
			}
		})
	})
}

// A write that takes long does not hold up `show` for long.
func TestShowDoesNotWaitForASlowWrite(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.rest, m.yields = 5*time.Second, true })
		m.connect("vif1.0 10.137.0.1")
		m.after(100 * time.Millisecond)
		m.set(func() { m.putOff = 0 })
		began := time.Now()
		m.vm("social")
		m.vm("social")
		if took := time.Since(began); took != 2*countersTimeout {
			t.Errorf("two looks have taken %v", took)
		}
		m.set(func() {
			if m.putOff > 0 {
				t.Errorf("%d writes were put off", m.putOff)
			}
		})
	})
}

// A caller that goes away while the loop is busy takes nothing with it that the loop still writes to: -race would tell.
func TestACallerGoesAwayWhileTheLoopIsBusy(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.mail.Post(func(*loop) { time.Sleep(time.Second) })
		ctx, cancel := context.WithTimeout(m.ctx, time.Millisecond)
		defer cancel()
		if e, err := m.Explain(ctx, "social", "https://a/"); !errors.Is(err, context.DeadlineExceeded) || e.Verdict != "" {
			t.Errorf("%+v, %v", e, err)
		}
		m.after(2 * time.Second)
	})
}
