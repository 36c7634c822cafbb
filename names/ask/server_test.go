package ask

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// What is remembered of a server: how long it is waited for, and when it is asked last.
func TestServer(t *testing.T) {
	const ms = time.Millisecond
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var s *server
	var now time.Time
	ask := func(n int) time.Time { s.ask(now, n); return now }
	pass := func(d time.Duration) { now = now.Add(d) }
	hear := func(after time.Duration) { asked := ask(0); pass(after); s.hear(asked, now, true, false) }
	fail := func() { s.hear(ask(0), now, true, true) }
	miss := func() { asked := ask(0); pass(silentAfter); s.miss(asked, now) }
	for what, c := range map[string]struct {
		before func()
		want   string
	}{
		"nothing":             {func() {}, "300ms"},
		"fast":                {func() { hear(ms) }, "50ms"},
		"of 40 ms":            {func() { hear(40 * ms) }, "120ms"}, // its mean, and four times how much it varies
		"slow":                {func() { hear(time.Second) }, "0s"},
		"slow, then fast":     {func() { hear(time.Second); repeat(20, func() { hear(ms) }) }, "300ms"},
		"under way":           {func() { hear(ms); ask(0); pass(49 * ms) }, "50ms"},
		"late":                {func() { hear(ms); ask(0); pass(51 * ms) }, "0s"},
		"late, then answers":  {func() { hear(ms); ask(0); pass(51 * ms); hear(ms) }, "50ms"},
		"silent":              {miss, "0s last"},
		"silent for a while":  {func() { miss(); pass(probeMin - 1) }, "0s last"},
		"probed":              {func() { miss(); pass(probeMin) }, "0s"},
		"just probed":         {func() { miss(); pass(probeMin); s.turn(now); pass(probeMin - 1) }, "0s last"},
		"silent twice":        {func() { miss(); pass(probeMin); miss(); pass(2*probeMin - 1) }, "0s last"},
		"probed again":        {func() { miss(); pass(probeMin); miss(); pass(2 * probeMin) }, "0s"},
		"silent for days":     {func() { repeat(100, func() { miss(); pass(probeMax) }) }, "0s"},
		"back":                {func() { miss(); hear(ms) }, "50ms"},
		"lost one of many":    {func() { asked := ask(0); pass(ms); hear(ms); pass(silentAfter); s.miss(asked, now) }, "50ms"},
		"lost many at once":   {func() { asked := ask(0); pass(silentAfter); repeat(50, func() { s.miss(asked, now) }); pass(probeMin) }, "0s"},
		"fails":               {func() { hear(ms); fail() }, "50ms"},
		"fails three times":   {func() { hear(ms); fail(); fail(); fail() }, "0s"},
		"fails no more":       {func() { hear(ms); fail(); fail(); fail(); hear(ms) }, "50ms"},
		"fails now and then":  {func() { repeat(9, func() { hear(ms); fail(); fail() }) }, "50ms"},
		"silent, then errors": {func() { miss(); fail() }, "300ms"},
	} {
		s, now = &server{}, start
		c.before()
		wait, last := s.turn(now)
		got := wait.String()
		if last {
			got += " last"
		}
		if got != c.want || last && !s.isSilent() {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func repeat(n int, f func()) {
	for range n {
		f()
	}
}

// A server that does not understand EDNS, or is silent to it, is asked without.
func TestEDNSOfServer(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later := func() time.Time { now = now.Add(time.Second); return now }
	var s server
	expect := func(nth int, want bool) {
		t.Helper()
		if got := s.ask(later(), nth); got != want {
			t.Errorf("EDNS: %t, want %t", got, want)
		}
	}
	expect(0, true)
	expect(1, false) // it may be silent to it
	asked := now
	s.hear(asked, later(), false, false)
	expect(0, false)
	now = now.Add(plainTime)
	expect(0, true)
	s.hear(now, later(), true, false)
	expect(0, true)
	expect(1, true) // it is not silent to it
	s.refuseEDNS(now)
	expect(0, false)

	s = server{}
	s.hear(now, later(), true, false)
	for range 2 {
		asked := now.Add(probeMax)
		s.ask(asked, 0)
		now = asked.Add(silentAfter)
		s.miss(asked, now)
	}
	expect(0, true)
	expect(1, false) // after a long silence it may be another server
}

// The servers are asked in the order of the Config; those that are silent come last.
func TestTurns(t *testing.T) {
	a := New()
	var config Config
	for i := range 5 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 53)
		config.Servers = append(config.Servers, at, at)
	}
	a.Configure(config)
	now := time.Now()
	order := func() (all string) {
		for _, turn := range a.turns(now) {
			all += fmt.Sprint(turn.addr.Addr().As4()[3])
		}
		return all
	}
	if got := order(); got != "012" {
		t.Errorf("the order is %s", got)
	}
	a.servers[0].miss(now, now)
	a.servers[1].miss(now, now)
	if got := order(); got != "201" || a.Silent() {
		t.Errorf("the order is %s, if two are silent", got)
	}
	version := a.Version()
	a.Configure(config)
	if got := order(); got != "201" || a.Version() != version {
		t.Errorf("the order is %s after the same configuration", got)
	}
	a.servers[2].miss(now, now)
	if got := order(); got != "012" || !a.Silent() {
		t.Errorf("the order is %s, if all are silent", got)
	}
	config.Servers = config.Servers[2:]
	a.Configure(config)
	if got := order(); a.Silent() || a.Version() == version || len(got) != 3 {
		t.Errorf("the order is %s", got)
	}
}
