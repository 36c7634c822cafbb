package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

func refused(host string) refusal { return refusal{target{host, 0}, host} }

// shows draws what is due until nothing is, and returns the titles.
func shows(b *board, at time.Time) (titles []string, again time.Time) {
	draws, again := b.due(at)
	for i, d := range draws {
		titles = append(titles, d.title)
		id := d.replaces
		if id == 0 {
			id = uint32(at.Sub(t0).Milliseconds()) + uint32(i) + 1
		}
		b.drawn(d, id)
	}
	return titles, again
}

// A target that was shown is not shown again at once; one that a person has said no to, for longer.
func TestNothingPressedMeansNo(t *testing.T) {
	for _, tt := range []struct {
		name     string
		byPerson bool
		quiet    time.Duration
	}{{"it has gone", false, quietTime}, {"a person has closed it", true, noTime}} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBoard()
			b.refuse(refused("cdn.example"), t0)
			if titles, again := shows(b, t0); len(titles) != 0 || !again.Equal(t0.Add(gatherTime)) {
				t.Fatalf("%q, %v", titles, again)
			}
			at := t0.Add(gatherTime)
			if titles, _ := shows(b, at); len(titles) != 1 {
				t.Fatalf("%q", titles)
			}
			id := b.sites["cdn.example"].id
			b.closed(id, tt.byPerson, at)
			if b.pressed(id) != nil {
				t.Error("a button of a closed notification counts")
			}
			last := at.Add(tt.quiet - time.Second)
			b.refuse(refused("cdn.example"), last)
			if titles, again := shows(b, last.Add(gatherTime)); len(titles) != 0 || !again.IsZero() {
				t.Errorf("shown again: %q", titles)
			}
			b.refuse(refused("cdn.example"), at.Add(tt.quiet))
			if titles, _ := shows(b, at.Add(tt.quiet+gatherTime)); len(titles) != 1 {
				t.Errorf("never shown again: %q", titles)
			}
		})
	}
}

// Over an hour in which something is refused all the time, there are as many notifications as are allowed, and memory is bounded.
func TestABoardIsBounded(t *testing.T) {
	b := newBoard()
	draws, i := 0, 0
	for at := t0; at.Before(t0.Add(time.Hour)); at = at.Add(time.Second) {
		for range 10 {
			i++
			site := fmt.Sprintf("s%d.example", i%1000)
			b.refuse(refusal{target{fmt.Sprintf("h%d.%s", i, site), 0}, site}, at)
		}
		titles, _ := shows(b, at)
		draws += len(titles)
		for id := range uint32(10) { // some are closed
			b.closed(id, false, at)
		}
	}
	if most := int(time.Hour/drawInterval + time.Hour/overflowTime + drawBurst + 1); draws > most {
		t.Errorf("%d notifications in an hour, want at most %d", draws, most)
	}
	if len(b.sites) > sitesMax || len(b.recent(t0.Add(time.Hour))) > entriesMax {
		t.Errorf("%d sites are remembered", len(b.sites))
	}
	for _, s := range b.sites {
		if len(s.targets) > targetsMax {
			t.Errorf("%s: %d targets", s.name, len(s.targets))
		}
	}
}

// Problems of the stream are told once each. What dom0 refuses is tried seldom.
func TestRetries(t *testing.T) {
	failed := func(status int) error {
		err := exec.Command("sh", "-c", fmt.Sprintf("exit %d", status)).Run()
		if statusOf(err) != status {
			t.Fatal(err)
		}
		return err
	}
	var r retries
	for i, want := range []struct {
		err    error
		lasted time.Duration
		says   string
		wait   time.Duration
	}{
		{nil, 0, "has ended", firstRetry},
		{nil, 0, "", 2 * firstRetry},
		{failed(1), 0, "exit status 1", 4 * firstRetry},
		{failed(policyRefused), 0, "/etc/qubes/policy.d", seldom},
		{failed(policyRefused), 0, "", seldom},
		{nil, 0, "has ended", 8 * firstRetry},
		{nil, provenStream, "has ended", firstRetry},
		{fmt.Errorf("start: %w", exec.ErrNotFound), 0, "is missing", seldom},
		{errors.New("x"), 0, "has ended: x", 2 * firstRetry},
	} {
		problem, wait := r.after(want.err, want.lasted)
		if wait != want.wait || !strings.Contains(problem, want.says) || (problem == "") != (want.says == "") {
			t.Errorf("%d: %q, %v", i, problem, wait)
		}
	}
	for range 20 {
		_, wait := r.after(nil, 0)
		if wait > lastRetry {
			t.Fatalf("waits %v", wait)
		}
	}
}

func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"cdn.example": "vifproxy.Allow+cdn.example", "CDN.example.": "vifproxy.Allow+cdn.example", "cdn.example:443": "vifproxy.Allow+cdn.example",
		"cdn.example:22": "vifproxy.Allow+cdn.example+22", "http://cdn.example:8080/x": "vifproxy.Allow+cdn.example+8080",
		"bücher.example": "vifproxy.Allow+xn--bcher-kva.example", "192.0.2.1": "vifproxy.Allow+192.0.2.1",
		"": "", "*.example": "", "cdn.example:0": "", "cdn.example:65536": "", "cdn.example:x": "", "a b": "", "-x": "", "[::1]:80": "", "a+b": "", "\x1b[2J": "",
	} {
		got, err := targetOf(text)
		if (err == nil) != (want != "") || err == nil && got.service(false) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %q", text, err)
		}
	}
}
