package supervisor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/internal/mailbox"
)

// watched runs a watcher of the links that works when the machine's links can be read, and tells when it was run.
func (m *machine) watched() (runs func() []time.Duration, lose chan error, stop func()) {
	start := time.Now()
	var all []time.Duration
	broken := errors.New("too many open files")
	lose = make(chan error)
	ctx, cancel := context.WithCancel(m.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.KeepWatching(ctx, "netlink", mailbox.Links, func(ctx context.Context, report func(error)) error {
			m.set(func() { all = append(all, time.Since(start)) })
			if len(all) < 8 {
				return broken
			}
			report(nil)
			m.Wake(mailbox.Links)
			select {
			case <-ctx.Done():
				return nil
			case err := <-lose:
				return err
			}
		})
	}()
	return func() (copied []time.Duration) {
		m.set(func() { copied = slices.Clone(all) })
		return copied
	}, lose, func() { cancel(); <-ended }
}

// A watcher that cannot begin is tried again, its input is read meanwhile, and people are told until it works.
func TestWatcherThatCannotBegin(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		runs, _, stop := m.watched()
		defer stop()
		m.link("vif1.0 10.137.0.1") // nobody tells of it
		m.expect(m.after(unwatchedInterval+time.Second/2), "start social (10.137.0.1) at 10.138.1.1: a :1\nbind vif1.0 10.137.0.1 :1")
		status, err := m.Status(m.ctx)
		if want := "events of netlink: too many open files"; err != nil || !slices.Contains(status.Problems, want) {
			t.Errorf("%q, %v; want %q", status.Problems, err, want)
		}
		told := func() string {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.notified[len(m.notified)-1]
		}
		if !strings.Contains(told(), "netlink: too many open files") {
			t.Errorf("systemd was told %q", told())
		}
		m.after(time.Minute)
		if status, err = m.Status(m.ctx); err != nil || len(status.Problems) > 0 || strings.Contains(told(), "netlink") {
			t.Errorf("after it has begun: %q, %v; systemd was told %q", status.Problems, err, told())
		}
		if n := len(runs()); n != 8 {
			t.Errorf("%d runs, at %v", n, runs())
		}
		m.set(func() { m.reads = 0 })
		if m.after(time.Minute); m.reads > 2 {
			t.Errorf("links were read %d times in a minute in which their watcher worked", m.reads)
		}
	})
}

// Events that are lost once in a while are no trouble: the watcher begins at once, and the input is read.
func TestWatcherThatEnds(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		runs, lose, stop := m.watched()
		defer stop()
		m.after(time.Hour)
		m.link("vif1.0 10.137.0.1")
		lose <- errors.New("no buffer space available")
		m.expect(m.after(time.Second), "start social (10.137.0.1) at 10.138.1.1: a :1\nbind vif1.0 10.137.0.1 :1")
		if status, err := m.Status(m.ctx); err != nil || len(status.Problems) > 0 {
			t.Errorf("%q, %v", status.Problems, err)
		}
		before := len(runs())
		for range 5 {
			synctest.Wait()
			lose <- errors.New("no buffer space available")
			time.Sleep(time.Minute / 2)
		}
		if n := len(runs()) - before; n != 5 {
			t.Errorf("%d runs after 5 ends, at %v", n, runs())
		}
	})
}
