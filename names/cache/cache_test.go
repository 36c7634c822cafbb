package cache

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"vifproxy/names/ask"
)

var (
	t0   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	here = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	six1 = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
)

// What the store says of one name, after an answer and at a time after it.
func TestTimes(t *testing.T) {
	positive := func(ttl time.Duration) ask.Answer { return ask.Answer{Addrs: here, TTL: ttl} }
	negative := func(ttl time.Duration) ask.Answer { return ask.Answer{NoSuchName: true, TTL: ttl} }
	for _, c := range []struct {
		answer ask.Answer
		after  time.Duration
		left   time.Duration // of a fresh answer
		state  string
	}{
		{positive(0), 0, time.Second, "fresh stale"},
		{positive(0), time.Second, 0, "stale"},
		{positive(0), time.Second + 24*time.Hour, 0, ""},
		{positive(time.Second), 0, time.Second, "fresh stale"},
		{positive(time.Second), 999 * time.Millisecond, time.Millisecond, "fresh stale"},
		{positive(time.Second), time.Second, 0, "stale"},
		{positive(time.Minute), 40 * time.Second, 20 * time.Second, "fresh stale"},
		{positive(time.Minute), 54*time.Second + 1, 6*time.Second - 1, "fresh stale ending"},
		{positive(9 * time.Second), 9*time.Second - 1, 1, "fresh stale"}, // too short to be asked for again before
		{positive(24 * time.Hour), 0, time.Hour, "fresh stale"},
		{positive(24 * time.Hour), time.Hour, 0, "stale"},
		{positive(24 * time.Hour), 25*time.Hour - 1, 0, "stale"},
		{positive(24 * time.Hour), 25 * time.Hour, 0, ""},
		{negative(0), 0, time.Second, "fresh"},
		{negative(0), time.Second, 0, ""},
		{negative(30 * time.Second), 0, 30 * time.Second, "fresh"},
		{negative(30 * time.Second), 30 * time.Second, 0, ""},
		{negative(time.Hour), 0, time.Minute, "fresh"},
		{negative(time.Hour), time.Minute, 0, ""},
	} {
		var s store
		s.put("a", four, c.answer, 7, t0)
		now := t0.Add(c.after)
		e := &s.get("a").families[four]
		left := max(0, e.left(7, now))
		var state []string
		if v := e.view(7, now); v.known {
			state = append(state, "fresh")
			if v.answer.TTL != left || v.answer.NoSuchName != c.answer.NoSuchName || len(v.answer.Addrs) != len(c.answer.Addrs) {
				t.Errorf("%v after %v: the view is %v", c.answer, c.after, v)
			}
		}
		if e.stale(now) {
			state = append(state, "stale")
		}
		if left > 0 && e.ending(left, now) {
			state = append(state, "ending")
		}
		if got := strings.Join(state, " "); left != c.left || got != c.state {
			t.Errorf("%v after %v: %q, %v left, want %q, %v", c.answer, c.after, got, left, c.state, c.left)
		}
		if e.left(8, now) > 0 {
			t.Errorf("%v after %v: it is true of other servers too", c.answer, c.after)
		}
	}
}

// A failure is kept for a moment, and what was answered before stays.
func TestFailures(t *testing.T) {
	var s store
	why := errors.New("why")
	s.fail("a", four, why, t0)
	e := &s.get("a").families[four]
	if v := e.view(0, t0.Add(failureTime-1)); v.err != why {
		t.Errorf("%v", v)
	}
	if v := e.view(0, t0.Add(failureTime)); v.known {
		t.Errorf("%v", v)
	}
	s.put("a", four, ask.Answer{Addrs: here, TTL: time.Second}, 0, t0)
	s.fail("a", four, why, t0)
	if v := e.view(0, t0); v.err != nil || len(v.answer.Addrs) == 0 {
		t.Errorf("a failure hides an answer that is true: %v", v)
	}
	if v := e.view(0, t0.Add(recheckTime-1)); v.err != why || !e.stale(t0.Add(recheckTime)) {
		t.Errorf("%v", v)
	}
	s.put("a", four, ask.Answer{Addrs: here}, 0, t0)
	if v := e.view(0, t0.Add(ttlMin)); v.known {
		t.Errorf("an answer does not end a failure: %v", v)
	}
}

// However many names an AppVM asks for, and however large the answers are, what is kept is bounded, and what is in use stays.
func TestBounds(t *testing.T) {
	for what, c := range map[string]struct{ name, addrs int }{"names": {10, 1}, "long names": {253, 1}, "addresses": {10, ask.AddrsMax}, "failures": {10, 0}} {
		var s store
		addrs := make([]netip.Addr, c.addrs)
		s.put("used", four, ask.Answer{Addrs: here}, 0, t0)
		for i := range 3 * namesMax {
			name := fmt.Sprintf("%0*d", c.name, i)
			for _, f := range []family{four, six, four} {
				if c.addrs == 0 {
					s.fail(name, f, errors.New("why"), t0)
				} else {
					s.put(name, f, ask.Answer{Addrs: addrs}, 0, t0)
				}
			}
			if s.get("used") == nil || s.get(name) == nil {
				t.Fatalf("%s: after %d, what is in use is gone", what, i)
			}
			sum := 0
			for r := s.used.Front(); r != nil; r = r.Next() {
				r := r.Value.(*record)
				sum += recordBytes + len(r.name) + r.families[four].bytes() + r.families[six].bytes()
			}
			if len(s.records) > namesMax || s.bytes > bytesMax || s.bytes != sum || s.used.Len() != len(s.records) {
				t.Fatalf("%s: after %d, there are %d in %d bytes, counted as %d", what, i, len(s.records), sum, s.bytes)
			}
		}
		if s.bytes < bytesMax*9/10 && len(s.records) < namesMax {
			t.Errorf("%s: only %d are kept, in %d bytes", what, len(s.records), s.bytes)
		}
	}
}

// One family: that of IPv4 if there is one, and nobody waits for the other then.
func TestJudge(t *testing.T) {
	answer := func(addrs []netip.Addr, nobody bool) view {
		return view{known: true, answer: ask.Answer{Addrs: addrs, NoSuchName: nobody, TTL: time.Minute}}
	}
	var (
		unknown = view{}
		a       = answer(here, false)
		aaaa    = answer(six1, false)
		empty   = answer(nil, false)
		nobody  = answer(nil, true)
		broken4 = view{known: true, err: errors.New("broken4")}
		broken6 = view{known: true, err: errors.New("broken6")}
	)
	for _, c := range []struct {
		four, six      view
		ipv4, withIPv6 string // what is told where IPv4 has a route, and where it has none
	}{
		{unknown, unknown, "wait", "wait"},
		{a, unknown, "a", "wait"},
		{a, aaaa, "a", "aaaa"},
		{a, empty, "a", "a"},
		{a, nobody, "a", "a"},
		{a, broken6, "a", "a"},
		{unknown, aaaa, "wait", "aaaa"},
		{unknown, nobody, "wait", "wait"},
		{unknown, broken6, "wait", "wait"},
		{empty, unknown, "wait", "wait"},
		{empty, aaaa, "aaaa", "aaaa"},
		{empty, empty, "empty", "empty"},
		{empty, nobody, "empty", "empty"},
		{empty, broken6, "broken6", "broken6"},
		{nobody, unknown, "nobody", "wait"},
		{nobody, aaaa, "nobody", "aaaa"},
		{nobody, empty, "nobody", "empty"},
		{nobody, nobody, "nobody", "nobody"},
		{nobody, broken6, "nobody", "broken6"},
		{broken4, unknown, "wait", "wait"},
		{broken4, aaaa, "aaaa", "aaaa"},
		{broken4, empty, "broken4", "broken4"},
		{broken4, broken6, "broken4", "broken6"},
	} {
		says := func(result Result, err error, done bool) string {
			switch {
			case !done:
				return "wait"
			case err != nil:
				return err.Error()
			case len(result.Addrs4) > 0:
				return "a" + strings.Repeat("?", len(result.Addrs6))
			case len(result.Addrs6) > 0:
				return "aaaa"
			case result.NoSuchName:
				return "nobody"
			}
			return "empty"
		}
		if got := says(judge(c.four, c.six, four)); got != c.ipv4 {
			t.Errorf("%v, %v: %s, want %s", c.four, c.six, got, c.ipv4)
		}
		if got := says(judge(c.six, c.four, six)); got != c.withIPv6 {
			t.Errorf("%v, %v, without IPv4: %s, want %s", c.four, c.six, got, c.withIPv6)
		}
	}
}
