package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
)

// watched runs a watcher of the supervisor and returns what it is told, as text, since the last call.
func watched(m *machine, names ...string) func() string {
	var told []string
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(m.ctx)
	m.t.Cleanup(cancel)
	go func() {
		ended <- m.Watch(ctx, names, func(e events.Event) error {
			line := e.Event
			for _, a := range e.Attrs() {
				if a.Key != "pid" && a.Key != "ip" {
					line += fmt.Sprintf(" %s=%s", a.Key, a.Value)
				}
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			told = append(told, line)
			return nil
		})
	}()
	return func() string {
		synctest.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		text := strings.Join(told, "\n")
		told = nil
		return text
	}
}

func TestWatchTellsWhatHappens(t *testing.T) {
	run(t, func(m *machine) {
		const aHost, bHost = `^a\.example$`, `^b\.example$`
		told := watched(m)
		m.expect(told(), "watching")
		m.file("social.10.137.0.1", aHost)
		m.after(time.Second)
		m.expect(told(), "rules-found vm=social")
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.expect(told(), `connected vm=social vif=vif1.0
			proxy-listens vm=social port=1 ms=3`)
		one := watched(m, "social")
		m.file("social.10.137.0.1", aHost, bHost)
		m.after(time.Second)
		m.expect(told(), `proxy-listens vm=social port=2 ms=3
			in-force vm=social port=2 ms=13
			proxy-retires vm=social port=1`) // 10 ms for the editor to finish, 3 for the start
		m.file("social.10.137.0.1", bHost)
		m.after(time.Second)
		lines := strings.Split(told(), "\n")
		slices.Sort(lines[2:]) // both end at once
		m.expect(strings.Join(lines, "\n"), `proxy-listens vm=social port=3 ms=3
			in-force vm=social port=3 ms=13
			proxy-ends vm=social port=1 why=its rules permitted what is not permitted any more connections=1
			proxy-ends vm=social port=2 why=its rules permitted what is not permitted any more connections=1`)
		m.file("social.10.137.0.1", "b b")
		m.after(time.Second)
		if got := told(); !strings.HasPrefix(got, "rules-refused vm=social err=") || strings.Contains(got, "\n") {
			t.Error(got)
		}
		m.file("social.10.137.0.1", bHost)
		m.after(time.Second)
		m.expect(told(), "rules-accepted vm=social")
		m.proxy("social").gone("die", errors.New("killed"))
		m.after(time.Second)
		m.expect(told(), "proxy-died vm=social err=killed\nproxy-listens vm=social port=4 ms=3")
		one()
		m.file("work.10.137.0.2", aHost)
		m.set(func() { m.linksErr = errors.New("no netlink") })
		m.Wake(mailbox.Links)
		m.after(time.Second)
		m.expect(one(), "trouble what=links err=no netlink")
		m.set(func() { m.linksErr = nil })
		m.Wake(mailbox.Links)
		m.after(time.Second)
		m.expect(one(), "recovered what=links")
		m.expect(told(), "trouble what=links err=no netlink\nrules-found vm=work\nrecovered what=links")
		m.connect()
		m.after(time.Second)
		m.remove("social.10.137.0.1")
		m.after(time.Second)
		m.expect(told(), `disconnected vm=social vif=vif1.0
			proxy-ends vm=social port=4 why=not wanted any more connections=1
			rules-gone vm=social`)
	})
}

// TestChangeThatIsTakenBack is in force as soon as the process of before serves again, which needs no start.
func TestChangeThatIsTakenBack(t *testing.T) {
	run(t, func(m *machine) {
		const aHost, bHost = `^a\.example$`, `^b\.example$`
		m.file("social.10.137.0.1", aHost)
		m.connect("vif1.0 10.137.0.1")
		m.after(time.Second)
		m.file("social.10.137.0.1", aHost, bHost)
		m.after(time.Minute)
		told := watched(m)
		told()
		m.file("social.10.137.0.1", aHost)
		m.after(time.Second)
		m.expect(told(), `in-force vm=social port=1 ms=10
			proxy-ends vm=social port=2 why=its rules permitted what is not permitted any more connections=1`)
	})
}

// TestFailuresAreToldOnce: trying again in vain is no news.
func TestFailuresAreToldOnce(t *testing.T) {
	run(t, func(m *machine) {
		told := watched(m)
		for _, failure := range []error{errors.New("no tinyproxy"), proxies.BadPolicy{Err: errors.New("bad regex")}} {
			m.set(func() { m.startErr = func(*policy.Policy) error { return failure } })
			m.file("social.10.137.0.1", fmt.Sprintf("%T", failure))
			m.connect("vif1.0 10.137.0.1")
			m.after(time.Hour)
			if got := told(); strings.Count(got, "err="+failure.Error()) != 1 ||
				strings.Contains(got, "rules-refused") != proxies.IsBad(failure) {
				t.Error(got)
			}
		}
	})
}

func TestWatchEndsAtUnknownNames(t *testing.T) {
	run(t, func(m *machine) {
		err := m.Watch(m.ctx, []string{"nobody"}, func(events.Event) error { return errors.New("told") })
		if !errors.As(err, new(*control.UnknownError)) {
			t.Error(err)
		}
	})
}
