package control

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/events"
)

func TestDeniedReachesTheClient(t *testing.T) {
	d := serveFake(t, &fakeDaemon{}, defaults, "")
	then := time.Date(2024, 11, 23, 7, 31, 8, 123, time.UTC)
	got, err := NewClient(d.socket).Denied(t.Context(), []string{"bank"}, then)
	want, _ := (&fakeDaemon{}).Denied(t.Context(), nil, then)
	if err != nil || len(got) != 1 || got[0].VM != "bank" || got[0].Forgotten != 3 ||
		got[0].Hosts[0] != want[0].Hosts[0] {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(d.asked) != 1 || d.asked[0] != "denied bank" {
		t.Errorf("the daemon was asked %q", d.asked)
	}
	if _, err = NewClient(d.socket).Denied(t.Context(), []string{"bnak"}, then); err == nil ||
		err.Error() != `no rule file for "bnak": there are "bank", "social"; did you mean "bank"?` {
		t.Errorf("unknown: %v", err)
	}
}

func TestReviewReachesTheClient(t *testing.T) {
	d := serveFake(t, &fakeDaemon{}, defaults, "")
	got, err := NewClient(d.socket).Review(t.Context(), []string{"bank"})
	want, _ := (&fakeDaemon{}).Review(t.Context(), nil)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err = NewClient(d.socket).Review(t.Context(), []string{"bnak"}); err == nil || !strings.Contains(err.Error(), `no rule file for "bnak"`) {
		t.Errorf("unknown: %v", err)
	}
}

func TestWatch(t *testing.T) {
	d := serveFake(t, &fakeDaemon{left: make(chan error, 1)}, defaults, "")
	enough := errors.New("enough")
	count := 0
	err := NewClient(d.socket).Watch(t.Context(), []string{"bank"}, func(e events.Event) error {
		if count++; e.Event != events.Watching || e.Count != count {
			t.Errorf("event %d is %+v", count, e)
		}
		if count == 1000 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("the client's error: %v", err)
	}
	if err := await.Value(t, "the end of the daemon's Watch", d.left); err == nil { // the daemon notices that the client has gone
		t.Error("the daemon's Watch ended without an error")
	}
	err = NewClient(d.socket).Watch(t.Context(), []string{"bnak"}, nil)
	if problem := (*DaemonError)(nil); !errors.As(err, &problem) || problem.Fault != Unknown {
		t.Errorf("unknown: %v", err)
	}
	await.Value(t, "the end of the daemon's Watch", d.left)
}

// Who does not read holds up nobody, and not the daemon's end either.
func TestWatcherThatDoesNotRead(t *testing.T) {
	quick := defaults
	quick.end = 50 * time.Millisecond
	d := serveFake(t, &fakeDaemon{left: make(chan error, 1)}, quick, "")
	stuck := dial(t, d.socket)
	if _, err := io.WriteString(stuck, "GET /v1/watch HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := stuck.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(d.socket).Status(t.Context()); err != nil {
		t.Errorf("meanwhile: %v", err)
	}
	if err := d.end(); err != nil {
		t.Error(err)
	}
	if err := await.Value(t, "the end of the daemon's Watch", d.left); err == nil {
		t.Error("the daemon's Watch ended without an error")
	}
}

func TestTooManyWatchers(t *testing.T) {
	few := defaults
	few.watchers = 1
	d := serveFake(t, &fakeDaemon{}, few, "")
	c := NewClient(d.socket)
	enough := errors.New("enough")
	err := c.Watch(t.Context(), nil, func(events.Event) error {
		err := c.Watch(t.Context(), nil, func(events.Event) error { return errors.New("one too many") })
		var problem *DaemonError
		if !errors.As(err, &problem) || problem.Fault != TooMany {
			t.Errorf("the second watcher: %v", err)
		}
		if _, err := c.Status(t.Context()); err != nil {
			t.Errorf("a verb meanwhile: %v", err)
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Errorf("the first watcher: %v", err)
	}
	await.Until(t, "the server has noticed an end", func() bool { // a little later than its client
		err := c.Watch(t.Context(), nil, func(events.Event) error { return enough })
		return errors.Is(err, enough)
	})
}

// A stream that is none, or breaks off, ends with an error, and an endless line does not fill the memory.
func TestWatchingAHostileDaemon(t *testing.T) {
	const head = "HTTP/1.0 200 OK\r\n\r\n"
	for answer, want := range map[string]string{
		head: "vifproxyd broke off the conversation: see `journalctl -u vifproxyd`: EOF",
		head + `{"event":"watching"}` + "\n" + `{"event":`: "cannot parse vifproxyd's reply",
		head + "<html>\n":                                        "cannot parse vifproxyd's reply",
		head + strings.Repeat(" ", maxEvent+1):                   "token too long",
		"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n{}\n{}\n": "broke off the conversation",
	} {
		socket := filepath.Join(openDir(t), "s")
		l, err := net.Listen("unix", socket)
		must(t, err)
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				io.WriteString(conn, answer)
			}
		}()
		err = NewClient(socket).Watch(context.Background(), nil, func(events.Event) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", answer, err, want)
		}
		l.Close()
		await.Value(t, "the end of the hostile daemon", served)
	}
}

// The list of a caller, and what it refuses, have verbs of their own.
func TestCallersAreTold(t *testing.T) {
	few := defaults
	few.callers = 1
	d := serveFake(t, &fakeDaemon{}, few, "")
	client := NewClient(d.socket)
	if status, err := client.Caller(t.Context(), "bank"); err != nil || len(status.VMs) == 0 {
		t.Errorf("caller: %+v, %v", status, err)
	}
	enough := errors.New("enough")
	if err := client.Refusals(t.Context(), "bank", func(r Refusal) error {
		if r.Host != "bank" {
			t.Errorf("told %+v", r)
		}
		if r.Port == 0 { // a stream is open
			err := client.Refusals(t.Context(), "social", func(Refusal) error { return nil })
			if problem := (*DaemonError)(nil); !errors.As(err, &problem) || problem.Fault != TooMany {
				t.Errorf("more streams than the bound: %v", err)
			}
		}
		if r.Port == 100 {
			return enough
		}
		return nil
	}); !errors.Is(err, enough) {
		t.Errorf("refusals: %v", err)
	}
	err := client.Refusals(t.Context(), "bnak", nil)
	if problem := (*DaemonError)(nil); !errors.As(err, &problem) || problem.Fault != Unknown && problem.Fault != TooMany {
		t.Errorf("unknown: %v", err)
	}
}

// A lesson ends with its last line, and what the daemon says of it reaches the client. A client that goes ends it.
func TestLearn(t *testing.T) {
	d := serveFake(t, &fakeDaemon{}, defaults, "")
	client := NewClient(d.socket)
	var ports int
	var last Lesson
	err := client.Learn(t.Context(), LearnRequest{Name: "bank", Seconds: 60}, func(l Lesson) error {
		if last = l; l.LearntHost != nil {
			ports++
		}
		return nil
	})
	if err != nil || ports != 100 || last.Event != LessonOver || last.Why != "its time is over" || last.LearntHost != nil {
		t.Errorf("%d hosts, then %+v, %v", ports, last, err)
	}
	if err := client.EndLesson(t.Context(), "bank"); err != nil {
		t.Error(err)
	}
	for _, r := range []LearnRequest{{Name: "bank", Seconds: LearnMax + 1}, {Name: "bank", Seconds: -1}} {
		var problem *DaemonError
		if err := client.Learn(t.Context(), r, nil); !errors.As(err, &problem) || problem.Fault != Invalid {
			t.Errorf("%d seconds: %v", r.Seconds, err)
		}
	}
	if got := strings.Join(d.asked, "; "); got != "learn 60 bank; learn 0 bank" {
		t.Errorf("the daemon was asked %s", got)
	}
	d = serveFake(t, &fakeDaemon{entered: make(chan struct{}, 1), left: make(chan error, 1)}, defaults, "")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewClient(d.socket).Learn(ctx, LearnRequest{Name: "bank", Seconds: 60}, nil) }()
	await.Value(t, "the beginning of the lesson", d.entered)
	cancel()
	if err := await.Value(t, "the end of the daemon's Learn", d.left); err == nil {
		t.Error("the daemon does not learn that the client has gone")
	}
	if err := await.Value(t, "the end of the client's Learn", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the client's error: %v", err)
	}
}
