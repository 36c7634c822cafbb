package process

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/leftover"

	"vifproxy/internal/events"
)

// TestFloodHoldsUpNobody has a proxy say all the time as much as can be read. What another one says is read after two
// turns at most: the one that is under way when it says it, and the next.
func TestFloodHoldsUpNobody(t *testing.T) {
	line := fmt.Sprintf(refusedLine, "flood")
	var floods atomic.Int64
	heard := make(chan int64, 1) // how many floods were read before
	l := newLauncher(t, func(o *Options) {
		o.OnDenied = func(d events.Denial) {
			if d.VM == "loud" {
				floods.Add(1)
			} else {
				heard <- floods.Load()
			}
		}
	})
	ctx := bounded(t)
	loud := start(t, l, script(t, "yes '"+line+"' & exec "+realBinary+` "$@"`), newSpec(l, "loud", 61000))
	quiet := start(t, l, realBinary, newSpec(l, "quiet", 61001))
	for range 100 {
		get(t, quiet, "example.org")
		said := floods.Load()
		select {
		case n := <-heard:
			if most := int64(2 * (readAtOnce/len(line) + 1)); n-said > most {
				t.Fatalf("%d lines of another proxy were read before, want %d at most", n-said, most)
			}
		case <-ctx.Done():
			t.Fatal("what another proxy says is not read")
		}
	}
	quiet.Kill()
	before := floods.Load()
	loud.Kill()
	written(t, loud.log)
	if log := read(t, l.options.RuntimeDir, "loud/log"); before == 0 || !strings.Contains(log, line+"\n"+line+"\n") {
		t.Errorf("the other was not loud: %d lines, log %.100q", before, log)
	}
}

// TestOutputAndProcessEndApart has one end long before the other.
func TestOutputAndProcessEndApart(t *testing.T) {
	l := newLauncher(t, nil)
	die := func(p *Proxy) {
		t.Helper()
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := p.Err(); err == nil || !strings.Contains(err.Error(), "killed by SIGKILL") {
			t.Error(err)
		}
	}
	const silent = "exec " + realBinary + ` "$@" >/dev/null 2>&1`
	p := start(t, l, script(t, "printf 'last words'; "+silent), newSpec(l, "social", 61000))
	die(p)
	if said := p.output.Said.Lines(); len(said) != 1 || said[0] != "last words" {
		t.Errorf("it said %q", said)
	}

	// What has left the group holds the pipe open.
	p = start(t, l, script(t, "setsid sh -c 'echo $$; exec sleep 1000' & "+silent), newSpec(l, "social", 61000))
	ctx := bounded(t)
	for len(p.output.Said.Lines()) == 0 {
		if runtime.Gosched(); ctx.Err() != nil {
			t.Fatal("it said nothing")
		}
	}
	pid, err := strconv.Atoi(p.output.Said.Lines()[0])
	if err != nil {
		t.Fatal(err)
	}
	die(p)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("kill what has left the group: %v", err)
	}
	if n := len(l.poller.watched); n > 0 {
		t.Errorf("%d descriptors are still watched", n)
	}
}

// TestUnwatchable is a start after which the kernel has no room to watch one more.
func TestUnwatchable(t *testing.T) {
	l := newLauncher(t, nil)
	spec := newSpec(l, "social", 61000)
	before := descriptors(t)
	fd := l.poller.fd
	l.poller.fd = -1
	_, err := l.Start(bounded(t), realBinary, spec)
	l.poller.fd = fd
	if err == nil || !strings.Contains(err.Error(), "epoll_ctl: bad file descriptor") {
		t.Error(err)
	}
	if left := running(t, func(pid, _ int) bool {
		return strings.HasPrefix(leftover.StatusField(pid, "Uid:"), strconv.Itoa(int(spec.UID))) && !leftover.InOtherNetwork(pid)
	}); left != nil {
		t.Errorf("still runs: %s", left)
	}
	l.CloseLog("social") // a proxy that has said something before it was killed has a log
	awaitDescriptors(t, before)
	if n := len(l.proxies); n > 0 {
		t.Errorf("%d proxies in the books", n)
	}
	start(t, l, realBinary, spec).Kill()
}

// TestAFloodIsReadAsItsBudgetRefills: beyond its burst a proxy that says all it can waits in write(2), so the daemon takes in
// no more than the budget. One that says what is readySteady does not wait.
func TestAFloodIsReadAsItsBudgetRefills(t *testing.T) {
	l := newLauncher(t, nil)
	since := time.Now()
	// tinyproxy itself could not log that it starts if the pipe were full.
	begun := filepath.Join(t.TempDir(), "begun")
	flood := "{ until [ -e " + begun + " ]; do sleep 0.01; done; exec yes " + strings.Repeat("y", 500) + "; } & exec "
	loud := start(t, l, script(t, flood+realBinary+` "$@"`), newSpec(l, "loud", 61000))
	if err := os.WriteFile(begun, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := start(t, l, realBinary, newSpec(l, "quiet", 61001))
	said := func() (bytes int64) { // by all of its group
		for _, stat := range running(t, func(_, group int) bool { return group == loud.PID }) {
			pid, _, _ := strings.Cut(stat, " ")
			for line := range strings.Lines(read(t, "/proc", pid, "io")) {
				if text, ok := strings.CutPrefix(line, "wchar: "); ok {
					n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
					bytes += n
				}
			}
		}
		return bytes
	}
	for ctx := bounded(t); said() <= readBurst; {
		if time.Sleep(time.Millisecond); ctx.Err() != nil {
			t.Fatalf("%d bytes are read, and a burst is %d", said(), readBurst)
		}
	}
	for range 20 {
		get(t, quiet, "example.org")
		time.Sleep(100 * time.Millisecond)
	}
	got := said()
	took := time.Since(since)
	// In addition to the budget: what is in the pipe, and what was read beyond the budget in the last turn.
	if most := readBurst + int64(readRate*took.Seconds()) + lastWords + readAtOnce; got > most {
		t.Errorf("%d bytes were taken from it in %v, want %d at most", got, took, most)
	}
	loud.Kill() // its end waits for nothing of that
	quiet.Kill()
	if n := len(l.poller.watched); n > 0 {
		t.Errorf("%d descriptors are still watched", n)
	}
}
