package supervisor

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/mailbox"
)

// silently changes a rule file, and nothing tells of it.
func (m *machine) silently(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// An AppVM that comes while its rules are being changed is served by the new ones, and by nothing until they are read.
func TestNewcomerWaitsForRulesThatAreRead(t *testing.T) {
	for what, come := range map[string]func(*machine){
		"a hint at it":   func(m *machine) { m.appears("10.137.0.1", "vif1.0 10.137.0.1") },
		"a hint at all":  func(m *machine) { m.connect("vif1.0 10.137.0.1") },
		"a slow watcher": func(m *machine) { m.appears("10.137.0.1", "vif1.0 10.137.0.1"); m.Wake(mailbox.Rules) },
	} {
		for _, content := range []string{"b\n", "not good\n", ""} {
			t.Run(what, func(t *testing.T) {
				run(t, func(m *machine) {
					m.file("social.10.137.0.1", "a")
					m.after(time.Second)
					m.silently("social.10.137.0.1", content)
					if what != "a slow watcher" {
						m.Wake(mailbox.Rules)
					}
					come(m)
					m.expect(m.took(), "")
					switch done := m.after(time.Second); content {
					case "b\n":
						m.expect(done, "start social (10.137.0.1) at 10.138.1.1: b :1\nbind vif1.0 10.137.0.1 :1")
					case "":
						m.expect(done, "start social (10.137.0.1) at 10.138.1.1:  :1\nbind vif1.0 10.137.0.1 :1")
					default:
						m.expect(done, "")
						if vm := m.vm("social"); vm.State != control.Refused {
							t.Errorf("%+v", vm)
						}
					}
				})
			})
		}
	}
}

// Nobody may have told of the change yet, or ever.
func TestNewcomerIsServedByWhatIsThere(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.silently("social.10.137.0.1", "bcd\n")
		m.appears("10.137.0.1", "vif1.0 10.137.0.1")
		m.expect(m.after(time.Second), "start social (10.137.0.1) at 10.138.1.1: bcd :1\nbind vif1.0 10.137.0.1 :1")
	})
}

// While its process starts its rules change: what comes up has never served, and is no last good one.
func TestProcessOfANewcomerThatComesUpTooLate(t *testing.T) {
	for what, tell := range map[string]bool{"told": true, "not told": false} {
		t.Run(what, func(t *testing.T) {
			run(t, func(m *machine) {
				m.file("social.10.137.0.1", "a")
				m.after(time.Second)
				m.appears("10.137.0.1", "vif1.0 10.137.0.1")
				m.expect(m.took(), "start social (10.137.0.1) at 10.138.1.1: a :1")
				m.silently("social.10.137.0.1", "not good\n")
				if tell {
					m.Wake(mailbox.Rules)
				}
				m.expect(m.after(time.Second), "kill :1")
				if vm := m.vm("social"); vm.State != control.Refused {
					t.Errorf("%+v", vm)
				}
			})
		})
	}
}

// A verb that has started a newcomer's process waits until that serves, although its rules are read once more: the event that they
// have changed comes later than their reading.
func TestUpdateWaitsForANewcomer(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		m.set(func() { m.delay = quietPeriod / 2 })
		m.connect("vif1.0 10.137.0.1")
		var updating sync.WaitGroup
		updating.Go(func() {
			status, err := m.Update(m.ctx)
			if err != nil || status.VMs[0].State != control.Running {
				t.Errorf("%+v, %v", status.VMs, err)
			}
		})
		time.Sleep(quietPeriod / 4)
		m.Wake(mailbox.Rules)
		updating.Wait()
	})
}

// An AppVM that restarts faster than links are read has another vif, and nothing from before.
func TestFastRestartHasNoLastGood(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.file("social.10.137.0.1", "not good")
		m.expect(m.after(time.Second), "")
		m.connect("vif2.0 10.137.0.1")
		m.expect(m.after(time.Second), "unbind vif1.0 10.137.0.1 :1\nkill :1")
		if vm := m.vm("social"); vm.State != control.Refused {
			t.Errorf("%+v", vm)
		}
	})
}

// Rules that change without end delay who comes by one reading.
func TestNewcomerWhileRulesChangeWithoutEnd(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a")
		m.after(time.Second)
		var writer sync.WaitGroup
		writer.Go(func() {
			for range 400 {
				m.Wake(mailbox.Rules)
				time.Sleep(quietPeriod / 2)
			}
		})
		time.Sleep(time.Second)
		m.connect("vif1.0 10.137.0.1")
		time.Sleep(3 * quietPeriodMax)
		if vm := m.vm("social"); vm.State != control.Running {
			t.Errorf("%+v", vm)
		}
		writer.Wait()
	})
}
