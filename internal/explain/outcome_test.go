package explain

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/internal/await"
	"vifproxy/internal/events"
)

// examiner is an Explainer that finds out what became of connections, in a world of values; routes are the kernel's.
func examiner(t *testing.T, attempts ...firewall.Attempt) Explainer {
	t.Helper()
	return Explainer{
		LookUp: func(_ context.Context, host string) ([]netip.Addr, error) {
			addrs := map[string]string{"lan.example": "10.1.2.3", "here.example": "127.0.0.1", "far.example": "198.51.100.1"}
			if addrs[host] == "" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr(addrs[host])}, nil
		},
		Attempts: func(uint32, uint16) ([]firewall.Attempt, error) {
			if attempts != nil && !attempts[0].To.IsValid() {
				return nil, errors.New("cannot list sockets")
			}
			return attempts, nil
		},
		Beyond: func(uid uint32) (bool, error) { return uid == 7, nil },
	}
}

// What tinyproxy says in one line, whatever the cause, is told by cause.
func TestOutcomeOfAConnection(t *testing.T) {
	fence := firewall.Fence{Openings: []firewall.Opening{{To: netip.MustParsePrefix("127.0.0.1/32"), Literal: true}}}
	to := netip.MustParseAddrPort("198.51.100.1:443")
	other := netip.MustParseAddrPort("198.51.100.2:443")
	for name, tt := range map[string]struct {
		attempts   []firewall.Attempt
		denied     events.Denial
		what, says string
	}{
		"another table drops what is sent": {[]firewall.Attempt{{To: other, Left: true}, {To: to}}, events.Denial{Waiting: true},
			events.OtherTable, "198.51.100.1:443 does not leave this VM"},
		"nobody answers": {[]firewall.Attempt{{To: other, Left: true}, {To: to, Left: true}, {To: to, Left: true}},
			events.Denial{Waiting: true, Took: 5 * time.Second}, events.NoAnswer, "no answer from 198.51.100.1:443, 198.51.100.2:443 for 5 s"},
		"nobody is asked any more": {nil, events.Denial{Waiting: true, Host: "192.0.2.1", Took: 5 * time.Second}, events.NoAnswer, "no answer for 5 s"},
		"it waits for its address": {nil, events.Denial{Waiting: true, Host: "here.example", Took: 4 * time.Second}, events.NoAnswer,
			"no answer for 4 s, from a name server as it seems"},
		"sockets cannot be listed": {[]firewall.Attempt{{}}, events.Denial{Waiting: true, Took: 6 * time.Second},
			events.NoAnswer, "no answer for 6 s"},
		"the name is not known any more": {nil, events.Denial{Host: "gone.example"}, "", "its addresses are not known now"},
		"the fence refuses": {nil, events.Denial{Host: "lan.example"}, events.FenceRefused,
			"the fence lets no proxy connect to 10.1.2.3: it is in 10.0.0.0/8"},
		"the host refuses":    {nil, events.Denial{Host: "here.example", Took: time.Second}, events.HostRefused, "here.example refuses"},
		"the host is silent":  {nil, events.Denial{Host: "here.example", Took: 3 * time.Second}, events.NoAnswer, "no answer for 3 s"},
		"an Upstream refuses": {nil, events.Denial{Host: "here.example", Upstream: true}, events.HostRefused, "Upstream of the template: here.example refuses"},
		"it has too many":     {nil, events.Denial{Host: "here.example", UID: 7}, events.TooMany, "as many as one AppVM may"},
		"it makes too many": {[]firewall.Attempt{{To: to}}, events.Denial{Waiting: true, UID: 7}, events.TooMany,
			"too many connections at once"},
		"an address is known by heart": {nil, events.Denial{Host: "127.0.0.1"}, events.HostRefused, "127.0.0.1 refuses"},
	} {
		tt.denied.Port = 443
		got := examiner(t, tt.attempts...).Outcome(t.Context(), fence, tt.denied)
		if got.What != tt.what || !strings.Contains(got.Why, tt.says) {
			t.Errorf("%s: %q %q, want %q %q", name, got.What, got.Why, tt.what, tt.says)
		}
	}
}

// Where no route leads to a host, that is told, and not that the host refuses.
func TestOutcomeWithoutARoute(t *testing.T) {
	s, done := examiner(t), make(chan events.Denial)
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		done <- s.Outcome(t.Context(), firewall.Fence{}, events.Denial{Host: "far.example", Port: 443})
	}()
	if got := await.Value(t, "what came of it", done); got.What != events.NoRoute || !strings.Contains(got.Why, "no route leads to 198.51.100.1") {
		t.Errorf("%+v", got)
	}
}
