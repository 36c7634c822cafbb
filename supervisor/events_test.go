package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/control"
)

// countingHandler counts lines, and the refusals that they tell of.
type countingHandler struct {
	lines, shown, notShown int
	slog.Handler           // its other methods are not called
}

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	h.lines++
	h.shown++
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "not_shown" {
			h.notShown += int(a.Value.Int64())
		}
		return true
	})
	return nil
}

// TestCatalog: each MESSAGE_ID is explained, once, with fields that exist, and nothing else is.
func TestCatalog(t *testing.T) {
	text, err := os.ReadFile("../packaging/vifproxy.catalog")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, a := range full(t).Attrs() {
		fields[strings.ToUpper(a.Key)] = true
	}
	explained := map[string]int{}
	head := regexp.MustCompile(`^([0-9a-f]{32})\nSubject: .+\nDefined-By: vifproxy\n` +
		`Documentation: man:vifproxy(d\(8\)|ctl\(1\))\n\n`)
	for entry := range strings.SplitSeq("\n"+string(text), "\n-- ") {
		if strings.HasPrefix(entry, "\n#") {
			continue // the comment before the first
		}
		m := head.FindStringSubmatch(entry)
		if m == nil {
			t.Errorf("no entry of a catalog:\n%s", entry)
			continue
		}
		explained[m[1]]++
		for _, field := range regexp.MustCompile(`@([^@\s]*)@`).FindAllStringSubmatch(entry, -1) {
			if !fields[field[1]] {
				t.Errorf("no event has the field %s:\n%s", field[1], entry)
			}
		}
	}
	names := map[string]bool{}
	for _, k := range vocabulary {
		if explained[k.ID] != 1 {
			t.Errorf("%s (%s) is explained %d times", k.Name, k.ID, explained[k.ID])
		}
		if delete(explained, k.ID); names[k.Name] {
			t.Errorf("two events are called %s", k.Name)
		}
		names[k.Name] = true
	}
	if len(explained) > 0 {
		t.Errorf("nobody sends %v", explained)
	}
}

// full is an About that has everything.
func full(t *testing.T) control.About {
	var a control.About
	v := reflect.ValueOf(&a).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int, reflect.Int64:
			f.SetInt(1)
		case reflect.Uint16:
			f.SetUint(1)
		case reflect.Struct:
			f.Set(reflect.ValueOf(vmA))
		default:
			t.Fatalf("a field of kind %s", f.Kind())
		}
	}
	if got := len(a.Attrs()); got != v.NumField() {
		t.Errorf("Attrs tells %d of %d fields", got, v.NumField())
	}
	return a
}

// watched runs a watcher of the supervisor and returns what it is told, as text, since the last call.
func watched(m *machine, names ...string) func() string {
	var told []string
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(m.ctx)
	m.t.Cleanup(cancel)
	go func() {
		ended <- m.Watch(ctx, names, func(e control.Event) error {
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
		m.Wake(Links)
		m.after(time.Second)
		m.expect(one(), "trouble what=links err=no netlink")
		m.set(func() { m.linksErr = nil })
		m.Wake(Links)
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
		for _, failure := range []error{errors.New("no tinyproxy"), badPolicy{errors.New("bad regex")}} {
			m.set(func() { m.startErr = func(*Policy) error { return failure } })
			m.file("social.10.137.0.1", fmt.Sprintf("%T", failure))
			m.connect("vif1.0 10.137.0.1")
			m.after(time.Hour)
			if got := told(); strings.Count(got, "err="+failure.Error()) != 1 ||
				strings.Contains(got, "rules-refused") != isBad(failure) {
				t.Error(got)
			}
		}
	})
}

func TestWatchEndsAtUnknownNames(t *testing.T) {
	run(t, func(m *machine) {
		err := m.Watch(m.ctx, []string{"nobody"}, func(control.Event) error { return errors.New("told") })
		if !errors.As(err, new(*control.UnknownError)) {
			t.Error(err)
		}
	})
}

// TestSlowWatcherMissesEvents: it delays neither the daemon nor others, costs no more than its backlog, and learns
// how much it has missed.
func TestSlowWatcherMissesEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewEvents(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		resume := make(chan bool)
		var slow, quick []control.Event
		done := make(chan error)
		go func() {
			done <- e.Watch(ctx, nil, func(event control.Event) error {
				<-resume
				slow = append(slow, event)
				return nil
			})
		}()
		go func() {
			done <- e.Watch(ctx, nil, func(event control.Event) error {
				quick = append(quick, event)
				return nil
			})
		}()
		synctest.Wait()
		const n = 10 * watchBacklog
		for i := range n {
			e.Emit(trouble, control.About{Count: i + 1})
			synctest.Wait()
		}
		if len(quick) != 1+n || quick[n].Count != n {
			t.Errorf("the quick one was told %d events", len(quick))
		}
		close(resume)
		synctest.Wait()
		if last := slow[len(slow)-1]; len(slow) != 1+watchBacklog+1 || last.Event != control.Missed ||
			last.Count != n-watchBacklog {
			t.Errorf("the slow one was told %d events, the last %+v", len(slow), last)
		}
		e.Emit(recovered, control.About{})
		synctest.Wait()
		if last := slow[len(slow)-1]; last.Event != "recovered" {
			t.Errorf("then %+v", last)
		}
		cancel()
		if err := errors.Join(<-done, <-done); !errors.Is(err, context.Canceled) || len(e.watchers) != 0 {
			t.Errorf("%v, %d watchers left", err, len(e.watchers))
		}
	})
}
