package sightings

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const day = 24 * time.Hour

var bank = netip.MustParseAddr("10.137.0.11")

// A machine is a VM over many days: its clock, and its book, which a restart reads again.
type machine struct {
	*testing.T
	*Book
	path  string
	clock time.Time
	ran   time.Duration
}

func newMachine(t *testing.T) *machine {
	m := &machine{T: t, path: filepath.Join(t.TempDir(), "state", "seen"), clock: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	m.restart(0)
	return m
}

// restart has the machine be off for days.
func (m *machine) restart(off int) {
	m.Helper()
	if m.Book != nil {
		if err := m.write(); err != nil {
			m.Fatal(err)
		}
	}
	m.clock = m.clock.AddDate(0, 0, off)
	m.open()
}

func (m *machine) open() {
	m.Helper()
	var err error
	if m.Book, err = open(m.path, func() (time.Time, time.Duration) { return m.clock, m.ran }); err != nil {
		m.Fatal(err)
	}
}

// passes has time pass.
func (m *machine) passes(d time.Duration) { m.clock, m.ran = m.clock.Add(d), m.ran+d }

// set sets the clock, by days.
func (m *machine) set(days int) { m.clock = m.clock.Add(time.Duration(days) * day) }

// runs has the VM run for days, with the list, and its AppVM connected or not.
func (m *machine) runs(days int, vifs ...string) (doubts int) {
	for range days {
		m.passes(day)
		if m.Note("bank", bank, vifs) != "" {
			doubts++
		}
	}
	return doubts
}

// An AppVM is doubted once, when it comes after a long time.
func TestDoubt(t *testing.T) {
	for name, test := range map[string]struct {
		before func(*machine)
		doubts string // "" if none
	}{
		"a new list":                {func(m *machine) {}, ""},
		"every week":                {func(m *machine) { m.runs(1, "vif1.0"); m.runs(7) }, ""},
		"after a month":             {func(m *machine) { m.runs(1, "vif1.0"); m.runs(31) }, "since 2026-01-02, by vif1.0"},
		"never":                     {func(m *machine) { m.runs(32) }, "since 2026-01-02"},
		"connected for long":        {func(m *machine) { m.runs(90, "vif1.0"); m.runs(1) }, ""},
		"another name":              {func(m *machine) { m.Note("old", bank, nil); m.runs(31); m.Forget("bank", bank) }, ""},
		"after restarts":            {func(m *machine) { m.runs(1, "vif1.0"); m.runs(16); m.restart(0); m.runs(16) }, "since 2026-01-02, by vif1.0"},
		"the machine was off":       {func(m *machine) { m.runs(1, "vif1.0"); m.restart(90) }, ""},
		"the clock was set back":    {func(m *machine) { m.runs(90, "vif1.0"); m.runs(1); m.set(-80) }, ""},
		"and forward again":         {func(m *machine) { m.runs(90, "vif1.0"); m.runs(1); m.set(-80); m.runs(1); m.set(80) }, ""},
		"the clock was set forward": {func(m *machine) { m.runs(1, "vif1.0"); m.restart(0); m.set(3650); m.runs(1) }, ""},
		"and after a month":         {func(m *machine) { m.runs(1, "vif1.0"); m.restart(0); m.set(3650); m.runs(31) }, ", by vif1.0"},
		"wrong when the VM began": {func(m *machine) {
			m.runs(1, "vif1.0")
			m.set(-20000)
			m.restart(0)
			m.runs(1)
			m.set(20000)
			m.runs(1)
			m.restart(0)
		}, ""},
		"far ahead then": {func(m *machine) {
			m.runs(1, "vif1.0")
			m.set(3650)
			m.restart(0)
			m.set(-3650)
			m.runs(1)
			m.restart(0)
			m.runs(31)
		}, ", by vif1.0"},
		"in one run": {func(m *machine) {
			m.runs(1, "vif1.0")
			m.set(3650)
			m.restart(0)
			m.set(-3650)
			m.restart(0)
			m.runs(31)
		}, ", by vif1.0"},
		"a restart while it was here": {func(m *machine) { m.runs(90, "vif1.0"); m.restart(0) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			test.before(m)
			m.passes(time.Hour)
			doubt := m.Note("bank", bank, []string{"vif9.0"})
			if (doubt == "") != (test.doubts == "") || !strings.HasSuffix(doubt, test.doubts) || m.Of("bank", bank).Doubt != doubt {
				t.Errorf("doubt %q, and %q", doubt, m.Of("bank", bank).Doubt)
			}
			if n := m.runs(3, "vif9.0"); n != 0 {
				t.Errorf("it is told of %d times more", n)
			}
			if s := m.Of("bank", bank); s.Vif != "vif9.0" || s.Last != m.clock {
				t.Errorf("then: %+v", s)
			}
			m.runs(1)
			if s := m.Of("bank", bank); s.Doubt != "" {
				t.Errorf("when it has gone: %+v", s)
			}
		})
	}
}

// If a file cannot be used, the error says so, and the book is empty. A nil book remembers nothing.
func TestBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seen")
	for _, text := range []string{"{", "[1]", strings.Repeat(" ", bookMax+1)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := Open(path); err == nil || b.Note("bank", bank, nil) != "" {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	var b *Book
	if b.Forget("bank", bank); b.Note("bank", bank, []string{"vif1.0"}) != "" || b.Of("bank", bank) != (Sighting{}) {
		t.Error("a nil book has something")
	}
}

// Keep writes what has changed, and once more at the end.
func TestKeep(t *testing.T) {
	m := newMachine(t)
	ctx, cancel := context.WithCancel(t.Context())
	reports, ended := make(chan error, 10), make(chan struct{})
	m.Note("bank", bank, []string{"vif1.0"})
	go func() { defer close(ended); m.Keep(ctx, func(err error) { reports <- err }) }()
	if err := <-reports; err != nil {
		t.Error(err)
	}
	m.Note("bank", bank, []string{"vif2.0"})
	cancel()
	<-ended
	m.open()
	if s := m.Of("bank", bank); s.Vif != "vif2.0" {
		t.Errorf("kept: %+v", s)
	}
	m.path = "/proc/none/seen"
	m.Book.path = m.path
	if err := m.write(); err == nil {
		t.Error("it is written where nothing can be")
	}
}

// The record is written a second after an AppVM has come, when its proxy serves.
func TestNothingIsWrittenWhileAnAppVMComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait() // until it has written once more
		defer cancel()
		go m.Keep(ctx, func(error) {})
		m.Note("bank", bank, []string{"vif7.0"})
		time.Sleep(writeDelay - time.Millisecond)
		synctest.Wait()
		if _, err := os.Stat(m.path); !os.IsNotExist(err) {
			t.Errorf("within %v: %v", writeDelay, err)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if _, err := os.Stat(m.path); err != nil {
			t.Error(err)
		}
	})
}
