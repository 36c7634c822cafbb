package process

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/events"
	"vifproxy/tinyproxy/vmlog"
)

const refusedLine = `NOTICE    Nov 23 07:31:08.180 [16035]: Proxying refused on filtered domain "%s"`

// TestAForgottenLogIsNoProblem: what could not be written of a VM that has gone is told of no longer.
func TestAForgottenLogIsNoProblem(t *testing.T) {
	l := newLauncher(t, nil)
	told := make(chan error, 10)
	l.OnLogProblem(func() { told <- nil })
	l.mu.Lock()
	log := l.logOf("social")
	l.mu.Unlock()
	log.Open(netip.MustParseAddr("10.137.0.9"), "/dev/full/log")
	out := vmlog.Output{Log: log.Log}
	_, _ = out.Write([]byte("lost\n"))
	written(t, log)
	if l.LogProblem() == nil {
		t.Fatal("it was written")
	}
	for len(told) > 0 {
		<-told
	}
	l.CloseLog("social")
	await.Value(t, "the news that the log is closed", told)
	if err := l.LogProblem(); err != nil {
		t.Error(err)
	}
}

// written waits until all lines are, or are dropped.
func written(t *testing.T, v *vmLog) {
	t.Helper()
	done := make(chan bool)
	v.Then(func() { close(done) })
	await.Value(t, "the lines that are to be written", done)
}

// hasLog waits until a proxy's first lines are written: it may listen before they are read.
func hasLog(t *testing.T, p *Proxy) {
	t.Helper()
	for ctx := bounded(t); len(p.output.Said.Lines()) == 0; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("it says nothing")
		}
	}
	written(t, p.log)
}

// TestHostileClient has the real tinyproxy log what an AppVM sends.
func TestHostileClient(t *testing.T) {
	var mu sync.Mutex
	var hosts []string
	l := newLauncher(t, func(o *Options) {
		o.OnDenied = func(d events.Denial) {
			mu.Lock()
			defer mu.Unlock()
			hosts = append(hosts, d.Host)
		}
	})
	spec := newSpec(l, "social", 61000)
	p := start(t, l, realBinary, spec)
	forged := strings.TrimPrefix(fmt.Sprintf(refusedLine, "forged"), "NOTICE")
	for _, text := range []string{
		"CONNECT a\x1b[2Jb\"c:443 HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n NOTICE" + forged + "\r\n\r\n", // a folded header
		"GET http://" + strings.Repeat("l", 2000) + "/ HTTP/1.1\r\n\r\n",
	} {
		request(t, spec.Listen, text)
	}
	p.Kill()
	want := []string{`a\x1b[2Jb"c`, "x", strings.Repeat("l", 255)}
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprintf("%q", hosts) != fmt.Sprintf("%q", want) {
		t.Errorf("hosts %q", hosts)
	}
	written(t, p.log)
	log := read(t, l.options.RuntimeDir, "social/log")
	if strings.ContainsAny(log, "\x1b\r") || !strings.Contains(log, `a\x1b[2Jb"c`) ||
		!strings.Contains(log, "\n NOTICE ") { // the forged line, known by its blank
		t.Errorf("log %q", log)
	}
}
