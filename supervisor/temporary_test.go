package supervisor

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vifproxy/control"
)

func (m *machine) allow(seconds int, hosts ...string) {
	m.t.Helper()
	if _, err := m.Allow(m.ctx, control.Temporary{Name: "social", Hosts: hosts, Seconds: seconds}); err != nil {
		m.t.Error(err)
	}
}

func TestAllowedForATime(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", `^a\.example$`)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.allow(600, "https://b.example/", "*.c.example", "a.example")
		m.expect(m.after(time.Second), `start social (10.137.0.1) at 10.138.1.1: ^a\.example$ \.c\.example$ ^b\.example$ :2
			unbind vif1.0 10.137.0.1 :1
			bind vif1.0 10.137.0.1 :2`)
		m.expect(m.after(9*time.Minute), "")

		// Asked for once more, it lasts from then on; nothing is restarted for that.
		m.allow(600, "b.example")
		m.expect(m.after(2*time.Minute), `start social (10.137.0.1) at 10.138.1.1: ^a\.example$ ^b\.example$ :3
			unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :3
			kill :2`)
		m.expect(m.after(20*time.Minute), `unbind vif1.0 10.137.0.1 :3
			bind vif1.0 10.137.0.1 :1
			kill :3`)
	})
}

// An AppVM's own request takes nothing from what a person has allowed for longer.
func TestAskedForIsNotShorter(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", `^a\.example$`)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.allow(3600, "b.example")
		m.after(time.Minute)
		asked := control.Temporary{Name: "social", Hosts: []string{"b.example"}, Seconds: 600, Asked: true}
		if _, err := m.Allow(m.ctx, asked); err != nil {
			t.Error(err)
		}
		if done := m.after(50 * time.Minute); strings.Contains(done, "kill") {
			t.Errorf("done: %s", done)
		}
		if _, err := m.Allow(m.ctx, asked); err != nil { // from here it lasts longer than the hour
			t.Error(err)
		}
		if done := m.after(9*time.Minute + 50*time.Second); strings.Contains(done, "kill") {
			t.Errorf("done: %s", done)
		}
		if done := m.after(time.Minute); !strings.HasSuffix(done, "kill :2") {
			t.Errorf("done: %s", done)
		}
	})
}

func TestTemporaryIsTakenBack(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", `^a\.example$`)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.allow(600, "b.example")
		m.after(time.Minute)
		m.allow(0, "b.example")
		if done := m.after(time.Second); !strings.HasSuffix(done, "kill :2") && !strings.HasSuffix(done, "kill :1") {
			t.Errorf("done: %s", done)
		}

		// Another VM that gets the address inherits nothing.
		m.allow(600, "b.example")
		m.after(time.Minute)
		m.remove("social.10.137.0.1")
		m.file("mail.10.137.0.1", `^a\.example$`)
		if done := m.after(time.Second); strings.Contains(done, "b.example") || !strings.Contains(done, "kill") {
			t.Errorf("done: %s", done)
		}
	})
}

// A broken rule file keeps the last good rules alive, but not what was allowed for a time.
func TestLastGoodRulesForgetWhatExpires(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", `^a\.example$`)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.allow(600, "b.example")
		m.after(time.Minute)
		m.file("social.10.137.0.1", "a b")
		m.expect(m.after(time.Minute), "")
		m.expect(m.after(10*time.Minute), `unbind vif1.0 10.137.0.1 :2
			bind vif1.0 10.137.0.1 :1
			kill :2`)
	})
}

func TestWhatCannotBeAllowedForATime(t *testing.T) {
	run(t, func(m *machine) {
		m.file("social.10.137.0.1", "a b")
		m.after(time.Second)
		var unknown *control.UnknownError
		if _, err := m.Allow(m.ctx, control.Temporary{Name: "nobody", Hosts: []string{"a"}, Seconds: 1}); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
		refused := func(want, host string) {
			t.Helper()
			_, err := m.Allow(m.ctx, control.Temporary{Name: "social", Hosts: []string{host}, Seconds: 1})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		refused("white space", "a.example")
		m.file("social.10.137.0.1", "^a$")
		m.after(time.Second)
		refused("is not a host name", "a b")
		m.file("config", "Port {port}\nListen {bind_ip}\nFilter \"{rules_file}\"\nFilterDefaultDeny No\n")
		m.after(time.Second)
		refused("FilterDefaultDeny No", "a.example")
	})
}
