package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
)

// A resolver that somebody has taken over reaches no file, no program and no service.
func TestAHostileResolverIsConfined(t *testing.T) {
	p := start(t, hostile, nil)
	if _, err := p.LookUp(t.Context(), 0, "try descriptors"); err == nil || err.Error() != " c p p s s" {
		t.Errorf("descriptors: %v", err) // want nothing, its output twice, the daemon, the questions
	}
	for what, want := range map[string]string{
		"open /etc/passwd":       "permission denied",
		"open /proc/self/status": "permission denied",
		"open /etc/resolv.conf":  "permission denied",
		"list /":                 "permission denied",
		"list /proc":             "permission denied",
		"write /tmp/x":           "permission denied",
		"execute /bin/true":      "function not implemented",
		"execute /proc/self/exe": "function not implemented",
		"connect 127.0.0.1:80":   "permission denied",
		"connect 127.0.0.1:53":   "connection refused",
		"listen":                 "operation not permitted",
		"bind 127.0.0.1:5353":    "permission denied",
		"unix":                   "operation not permitted",
		"netlink":                "operation not permitted",
		"packet":                 "operation not permitted",
		"raw":                    "operation not permitted",
		"device ":                "operation not permitted",
		"fork":                   "operation not permitted",
		"signal":                 "operation not permitted",
		"uid":                    "operation not permitted",
		"executable":             "operation not permitted",
	} {
		_, err := p.LookUp(t.Context(), 0, "try "+what)
		if fmt.Sprint(err) != want {
			t.Errorf("%s: %v, want %s", what, err, want)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(tinyproxy.NamesUID)
	for _, want := range []string{"Uid:\t" + strings.Join([]string{id, id, id, id}, "\t"), "Gid:\t" + strings.Join([]string{id, id, id, id}, "\t"),
		"Groups:\t \n", "NoNewPrivs:\t1", "Seccomp:\t2", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000",
		"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if p.ends() != 0 {
		t.Error("it has ended")
	}
}

// What a resolver that somebody has taken over does to the socket for questions ends with it: it belongs to those that come after, too.
func TestTheSocketIsMended(t *testing.T) {
	p := start(t, hostile, nil)
	socket := func() (*os.File, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.socket, p.unsettled()
	}
	for _, how := range []string{"connected", "disconnected", "errors", "reused", "small", "shut", "silent", "as it was"} {
		p.works()
		before, _ := socket()
		pid := p.pid()
		if _, err := p.LookUp(t.Context(), 0, "try unsettle "+how); fmt.Sprint(err) != "done" {
			t.Errorf("%s: %v", how, err)
		}
		if _, err := socket(); (err == nil) != (how == "as it was") {
			t.Errorf("%s: the socket is changed: %v", how, err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p.until("another one runs", func() bool { return p.pid() != pid })
		p.works()
		now, err := socket()
		if err != nil {
			t.Errorf("%s: the next one has a socket that is changed: %v", how, err)
		}
		if (now == before) != (how == "as it was") {
			t.Errorf("%s: the next one has the same socket: %v", how, now == before)
		}
		asker, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", p.port))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(asker, how)
		asker.Close()
		got := make([]byte, 100)
		p.until("a question comes: "+how, func() bool { // and those that waited before it
			n, _, err := unix.Recvfrom(int(now.Fd()), got, unix.MSG_DONTWAIT)
			return err == nil && string(got[:n]) == how
		})
	}
}

// A resolver that says what makes no sense is followed by another one, and people are told once.
func TestNonsenseEndsAResolver(t *testing.T) {
	p := start(t, hostile, nil)
	id, err := p.Open(t.Context(), order(0x70890001))
	if err != nil {
		t.Fatal(err)
	}
	p.works()
	p.told.SetLimit(rate.Inf) // people would not be told of so many
	for i, test := range []struct{ say, why string }{
		{"pin private", "192.168.1.1 for uid"},
		{"pin stranger", "addresses for uid 1888026626"},
		{"pin daemon", "addresses for uid 0"},
		{"unpin stranger", "uid 1888026626 is not pinned"},
		{"opened", "is open"},
		{"closed", fmt.Sprintf("gate %d is closed", id)},
		{"ready", "it begins twice"},
		{"answer", "an answer to question"},
		{"two", "exactly one field"},
		{"judge", ""}, // it has too many judged, says too much or does not read, whichever is first
	} {
		before := p.log.String()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() {
			_, _ = p.LookUp(ctx, 0, "say "+test.say)
			close(done)
		}()
		p.until("it is told that "+test.say+" ends it", func() bool { return strings.Count(p.log.String(), "\n") > strings.Count(before, "\n") })
		cancel() // or the next one is asked too
		<-done
		text := strings.TrimPrefix(p.log.String(), before)
		if !strings.Contains(text, "event=resolver-ended") || !strings.Contains(text, test.why) {
			t.Errorf("%d %s: %s", i, test.say, text)
		}
		p.works()
	}
	if p.book.String() != "" {
		t.Errorf("pinned: %s", p.book)
	}
}

// One that does not read, that stops, crashes, floods or talks is followed by another one.
func TestABadResolverEnds(t *testing.T) {
	for how, why := range map[string]string{
		"panics":          "panic: a name of panics",
		"exits":           "exit status 3",
		"stops":           "it does not answer",
		"deaf":            "it does not answer",
		"floods":          "it says too much",
		"talks":           "it does not answer",
		"rambles":         "invalid character",
		"rambles forever": "a message of more than 65536 bytes",
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := start(t, hostile, nil)
			limit := func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.run != nil {
					p.run.flow.SetBurst(reportBurst / 100) // at any rate: a busy machine reads less in a second than is too much
					p.run.flow.SetLimit(0)
				}
			}
			p.works()
			limit()
			p.Configure(wire.Settings{Domain: how})
			p.until("it ends", func() bool { return p.ends() > 0 })
			p.Configure(wire.Settings{})
			p.until("another one answers", func() bool { // the next one may have had the same settings, and ends, too
				limit()
				addrs, err := p.LookUp(t.Context(), 0, "bank.example")
				return err == nil && fmt.Sprint(addrs) == "[93.184.216.34]"
			})
			if text := p.log.String(); !strings.Contains(text, why) {
				t.Errorf("not told: %s", why)
			} else if strings.Count(text, "\n") > 200 {
				t.Errorf("%d lines", strings.Count(text, "\n"))
			}
			_, err := p.Open(t.Context(), order(0x70890001))
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What it says about names is remembered for those who ask, and what only somebody who owns a proxy asks is told.
func TestEvents(t *testing.T) {
	const uid = 0x70890001
	owned := make(chan string, 1)
	p := start(t, hostile, func(o *Options) {
		o.OnOwned = func(e wire.Event) { owned <- fmt.Sprint(e.UID, " ", e.Count) }
	})
	if _, err := p.Open(t.Context(), order(uid)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.LookUp(t.Context(), 0, "say event"); err != nil {
		t.Fatal(err)
	}
	if got := await.Value(t, "the news that it is owned", owned); got != fmt.Sprint(uid, " ", 7) {
		t.Error(got)
	}
	if failure, _, ok := p.Why(uid, "EVIL.example."); !ok || failure != wire.Owned {
		t.Errorf("%v, %v", failure, ok)
	}
	if failure, _, ok := p.Why(uid+1, "evil.example"); ok {
		t.Errorf("of another one: %v", failure)
	}
	var e *Error
	if _, err := p.LookUp(t.Context(), tinyproxy.NamesUID, "bank.example"); !errors.As(err, &e) || e.Failure != wire.ServerError {
		t.Error(err)
	}
}

// A name that only a real tinyproxy compares is judged, and permitted if that permits it.
func TestJudging(t *testing.T) {
	p := start(t, hostile, nil)
	for name, want := range map[string]string{"permitted": "permitted", "other": "not permitted", "unheard": "nobody knows"} {
		if _, err := p.Open(t.Context(), order(0x70890001, name)); err != nil {
			t.Fatal(err)
		}
		p.until("it is judged", func() bool { _, why, _ := p.Why(0x70890001, "judged"); return why == want })
	}
}
