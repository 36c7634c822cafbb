package supervisor

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/stops"
)

func (m *machine) stop(names ...string) {
	m.t.Helper()
	if _, err := m.Stop(m.ctx, names); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) letGo(names ...string) {
	m.t.Helper()
	if _, err := m.Supervisor.Start(m.ctx, names); err != nil {
		m.t.Error(err)
	}
}

func (m *machine) states(want ...string) {
	m.t.Helper()
	status, err := m.Status(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	var got []string
	for _, vm := range status.VMs {
		got = append(got, vm.Name+" "+vm.State)
	}
	if !reflect.DeepEqual(got, want) {
		m.t.Errorf("%q, want %q", got, want)
	}
}

// TestAPersonsNoStays across whatever happens to the rule file, until a person says yes.
func TestAPersonsNoStays(t *testing.T) {
	run(t, func(m *machine) {
		m.file("bank.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
		m.after(time.Second)
		m.stop("bank")
		since := m.vm("bank").Since
		for what, change := range map[string]func(){
			"update":           func() { m.Update(m.ctx) },
			"SIGHUP":           func() { m.Reload(m.ctx) },
			"a rule file away": func() { m.remove("bank.10.137.0.1"); m.after(time.Second); m.file("bank.10.137.0.1", "a") },
			"a reboot": func() {
				m.connect("vif2.0 10.137.0.2")
				m.after(time.Hour)
				m.connect("vif2.0 10.137.0.2", "vif9.0 10.137.0.1")
			},
			"a bad rule file": func() { m.file("bank.10.137.0.1", "a b"); m.after(time.Second); m.file("bank.10.137.0.1", "a") },
		} {
			m.took()
			change()
			if done := m.after(time.Minute); strings.Contains(done, "start bank") {
				t.Errorf("%s started it: %s", what, done)
			}
		}
		if vm := m.vm("bank"); vm.State != control.Stopped || vm.StoppedBy != "a person" || vm.Since != since {
			t.Errorf("%+v, want it stopped since %v", vm, since)
		}
		m.letGo("bank")
		m.states("bank running", "work running")
		if len(m.stops.Stopped) > 0 {
			t.Errorf("kept: %+v", m.stops)
		}
	})
}

// TestANoIsForNameAndAddress: the rule file may get another name, or another address, and most likely means the same AppVM.
func TestANoIsForNameAndAddress(t *testing.T) {
	run(t, func(m *machine) {
		m.file("bank.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		m.stop("bank")
		m.remove("bank.10.137.0.1")
		m.file("money.10.137.0.1", "a")
		m.after(time.Second)
		m.states("money stopped")
		m.file("bank.10.137.0.2", "a")
		m.after(time.Second)
		m.states("bank stopped", "money stopped")
		m.letGo("money")
		m.states("bank stopped", "money running") // nobody has said yes to bank
		m.remove("bank.10.137.0.2")
		m.after(time.Second)
		m.letGo("bank") // it has no rule file now
		m.file("bank.10.137.0.2", "a")
		m.after(time.Second)
		m.states("bank running", "money running")
	})
}

// TestKillAllIsForWhoComesLaterToo, and one by one they are let go.
func TestKillAllIsForWhoComesLaterToo(t *testing.T) {
	run(t, func(m *machine) {
		m.file("bank.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
		m.after(time.Second)
		m.KillAll(m.ctx, false)
		m.file("work.10.137.0.2", "w")
		m.after(time.Second)
		m.states("bank stopped", "work stopped")
		m.letGo("work")
		m.states("bank stopped", "work running")
		m.remove("work.10.137.0.2")
		m.file("other.10.137.0.2", "w") // the exception was not for it
		m.after(time.Second)
		m.states("bank stopped", "other stopped")
		m.KillAll(m.ctx, true)
		m.states("bank running", "other running")
		if !reflect.DeepEqual(m.stops, stops.Record{}) {
			t.Errorf("kept: %+v", m.stops)
		}
	})
}

func TestANoOutlivesTheDaemon(t *testing.T) {
	var kept stops.Record
	run(t, func(m *machine) {
		m.file("bank.10.137.0.1", "a")
		m.after(time.Second)
		m.stop("bank")
		kept = m.stops
	})
	runAfter(t, func(m *machine) { m.stops = kept }, func(m *machine) {
		m.file("bank.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.expect(m.after(time.Minute), "")
		if vm := m.vm("bank"); vm.State != control.Stopped || !vm.Since.Equal(kept.Stopped[0].Since) {
			t.Errorf("%+v", vm)
		}
	})
}

// TestUnreadStopsStopAll: "could not read" is never "there is nothing".
func TestUnreadStopsStopAll(t *testing.T) {
	unreadable := func(m *machine) {
		m.stopsErr = errors.New("input/output error")
		m.file("bank.10.137.0.1", "a")
		m.file("work.10.137.0.2", "w")
		m.link("vif1.0 10.137.0.1", "vif2.0 10.137.0.2")
	}
	runAfter(t, unreadable, func(m *machine) {
		m.after(time.Second)
		m.states("bank stopped", "work stopped")
		if status, _ := m.Status(m.ctx); len(status.Problems) != 1 || !strings.Contains(status.Problems[0], theStops) {
			t.Errorf("problems: %q", status.Problems)
		}
		m.set(func() {
			m.stopsErr, m.stops = nil, stops.Record{Stopped: []stops.Stop{{Name: "work", Since: time.Now()}}}
		})
		m.after(time.Minute)
		m.states("bank running", "work stopped")
	})
	runAfter(t, unreadable, func(m *machine) { // what a person says meanwhile is heard, and kept
		m.after(time.Second)
		m.set(func() { m.stopsErr = nil })
		m.letGo("work")
		m.after(time.Minute)
		m.states("bank stopped", "work running")
		if m.stops.All.IsZero() || len(m.stops.But) != 1 {
			t.Errorf("kept: %+v", m.stops)
		}
	})
}

// TestAHoldLeavesAnUnreadRecordAlone: nobody has said kill-all, and what people have stopped is still to be read.
func TestAHoldLeavesAnUnreadRecordAlone(t *testing.T) {
	before := func(m *machine) {
		m.stopsErr = errors.New("input/output error")
		m.file("bank.10.137.0.1", "a")
		m.file("free.10.137.0.2", "f")
		m.file("work.10.137.0.3", "w")
		m.link("vif1.0 10.137.0.1", "vif2.0 10.137.0.2", "vif3.0 10.137.0.3")
	}
	people := stops.Record{Stopped: []stops.Stop{{Name: "work", Since: time.Now()}}}
	runAfter(t, before, func(m *machine) {
		m.after(time.Second)
		m.Hold("bank", netip.MustParseAddr("10.137.0.1"), "nobody has been connected for this list")
		m.after(time.Minute) // it cannot be read for some more times
		m.states("bank stopped", "free stopped", "work stopped")
		if by := m.vm("free").StoppedBy; by == "a person, with kill-all" {
			t.Errorf("free is stopped by %q", by)
		}
		m.set(func() { m.stopsErr, m.stops = nil, people })
		m.after(time.Minute)
		m.states("bank stopped", "free running", "work stopped")
		if by := m.vm("bank").StoppedBy; !strings.Contains(by, "--on-unseen=hold") {
			t.Errorf("bank is stopped by %q", by)
		}
		if by := m.vm("work").StoppedBy; by != "a person" {
			t.Errorf("work is stopped by %q", by)
		}
		if len(m.stops.Stopped) != 2 || !m.stops.All.IsZero() {
			t.Errorf("kept: %+v", m.stops)
		}
		m.letGo("bank")
		m.states("bank running", "free running", "work stopped")
	})
	runAfter(t, before, func(m *machine) { // a person who lets it go meanwhile is heard
		m.after(time.Second)
		m.Hold("bank", netip.MustParseAddr("10.137.0.1"), "nobody has been connected for this list")
		m.after(time.Second)
		m.set(func() { m.stopsErr = nil })
		m.letGo("bank")
		m.after(time.Minute)
		m.states("bank running", "free stopped", "work stopped")
		if m.stops.All.IsZero() || len(m.stops.Stopped) != 0 {
			t.Errorf("kept: %+v", m.stops)
		}
	})
}

// TestAStopThatIsNotKeptSaysSo, and is kept as soon as that is possible.
func TestAStopThatIsNotKeptSaysSo(t *testing.T) {
	for what, fault := range map[string]func(*machine) (mend func()){
		"the disk is full": func(m *machine) func() {
			m.stopsErr = errors.New("no space left on device")
			return func() { m.stopsErr = nil }
		},
		"the file system is dead": func(m *machine) func() {
			m.stopsWait = make(chan struct{})
			return func() { close(m.stopsWait); m.stopsWait = nil }
		},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(m *machine) {
				m.file("bank.10.137.0.1", "a")
				m.connect("vif1.0 10.137.0.1")
				m.after(time.Second)
				var mend func()
				m.set(func() { mend = fault(m) })
				_, err := m.Stop(m.ctx, []string{"bank"})
				if err == nil || !strings.Contains(err.Error(), "will not outlive a restart") {
					t.Errorf("stop says %v", err)
				}
				m.states("bank stopped")
				m.file("work.10.137.0.2", "w") // the loop goes on
				m.after(time.Second)
				m.states("bank stopped", "work waiting")
				if status, _ := m.Status(m.ctx); len(status.Problems) != 1 {
					t.Errorf("problems: %q", status.Problems)
				}
				m.set(mend)
				m.after(time.Minute)
				if len(m.stops.Stopped) != 1 {
					t.Errorf("kept: %+v", m.stops)
				}
				if status, _ := m.Status(m.ctx); len(status.Problems) > 0 {
					t.Errorf("problems: %q", status.Problems)
				}
			})
		})
	}
}
