package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
)

// threads returns the number of operating system threads of this process.
func threads(t *testing.T) int {
	t.Helper()
	for line := range strings.Lines(read(t, "/proc/self/status")) {
		if n, ok := strings.CutPrefix(line, "Threads:"); ok {
			threads, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil {
				t.Fatal(err)
			}
			return threads
		}
	}
	t.Fatal("no thread count")
	return 0
}

// TestManyProxies runs a hundred: they cost no thread and no goroutine.
func TestManyProxies(t *testing.T) {
	const many = 100
	l := newLauncher(t, nil)
	start(t, l, realBinary, newSpec(l, "first", 61000)).Kill() // what is made once is there now
	threadsBefore, goroutinesBefore := threads(t), runtime.NumGoroutine()
	l.CloseLog("first")
	descriptorsBefore := descriptors(t)
	ctx := bounded(t)
	var proxies [many]*Proxy
	var wg sync.WaitGroup
	atOnce := make(chan bool, 4) // as a caller should; each start blocks a thread now and then
	for i := range proxies {
		atOnce <- true
		wg.Go(func() {
			defer func() { <-atOnce }()
			var err error
			proxies[i], err = l.Start(ctx, realBinary, newSpec(l, fmt.Sprintf("vm%d", i), uint16(61001+i)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	if wg.Wait(); t.Failed() {
		t.FailNow()
	}
	// The runtime may have made a few for the concurrent starts.
	if n := threads(t); n > threadsBefore+many/2 {
		t.Errorf("%d threads, %d before", n, threadsBefore)
	} else {
		t.Logf("%d threads, %d before", n, threadsBefore)
	}
	for runtime.NumGoroutine()-goroutinesBefore > 5 { // what goes on for a moment after a start
		if time.Sleep(time.Millisecond); ctx.Err() != nil {
			t.Fatalf("%d goroutines more", runtime.NumGoroutine()-goroutinesBefore)
		}
	}
	for i, p := range proxies {
		p.Kill()
		l.CloseLog(fmt.Sprintf("vm%d", i))
	}
	awaitDescriptors(t, descriptorsBefore)
}

func descriptors(t *testing.T) (open []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil { // not the one that reads the directory
			open = append(open, e.Name()+" "+to)
		}
	}
	return open
}

// awaitDescriptors waits until no more are open than before. The log of a proxy that has ended is closed by the queue that
// writes it.
func awaitDescriptors(t *testing.T, before []string) {
	t.Helper()
	for ctx := bounded(t); len(descriptors(t)) > len(before); {
		if time.Sleep(time.Millisecond); ctx.Err() != nil {
			t.Fatalf("descriptors stay open: %q, before %q", descriptors(t), before)
		}
	}
}

// TestNoDescriptorsInherited opens one as a careless parent would leave it.
func TestNoDescriptorsInherited(t *testing.T) {
	fd, err := unix.Open("/etc/hostname", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l := newLauncher(t, nil)
	// ls has one more open: the directory.
	_, err = l.Start(bounded(t), script(t, "exec ls -m /proc/self/fd"), newSpec(l, "social", 61000))
	if err == nil || !strings.Contains(err.Error(), `it said "0, 1, 2, 3"`) {
		t.Error(err)
	}
}

// BenchmarkStart is from the call to the listening socket, files included; BenchmarkBareStart is what
// os/exec and attempts to connect take for the same.
func BenchmarkStart(b *testing.B) {
	l := newLauncher(b, nil)
	spec := newSpec(l, "social", 61000)
	for b.Loop() {
		p, err := l.Start(context.Background(), realBinary, spec)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		p.Kill()
		b.StartTimer()
	}
}

func BenchmarkBareStart(b *testing.B) {
	l := newLauncher(b, nil)
	spec, err := l.render(newSpec(l, "social", 61000))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := l.prepare(spec); err != nil {
		b.Fatal(err)
	}
	if err := l.stage(spec); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cmd := exec.Command(realBinary, "-d", "-c", l.options.RuntimeDir+"/social/61000/config")
		cmd.Stdout = io.Discard
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for {
			conn, err := net.Dial("tcp", spec.Listen.String())
			if err == nil {
				conn.Close()
				break
			}
		}
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.StartTimer()
	}
}

// BenchmarkRefusedLine is what a line costs when an AppVM floods.
func BenchmarkRefusedLine(b *testing.B) {
	v := newVMLog("social", func(events.Denial) {}, nil, nil, nil)
	v.open(netip.Addr{}, b.TempDir()+"/log")
	out := output{log: v, requests: tinyproxy.NewRequests(&tinyproxy.Config{}, 0, v.denied, v.visited)}
	line := fmt.Appendf(nil, refusedLine+"\n", "example.org")
	for b.Loop() {
		out.Write(line)
	}
	v.close(time.Minute)
}

// BenchmarkRequest is what the lines of one request cost that is served: within the limits of the log, and beyond them.
func BenchmarkRequest(b *testing.B) {
	said := []byte(`CONNECT   Nov 30 11:00:00.123 [4711]: Connect (file descriptor 5): 10.137.0.11
CONNECT   Nov 30 11:00:00.123 [4711]: Request (file descriptor 5): GET http://www.example.org/ HTTP/1.1
INFO      Nov 30 11:00:00.123 [4711]: No upstream proxy for www.example.org
INFO      Nov 30 11:00:00.123 [4711]: opensock: opening connection to www.example.org:80
INFO      Nov 30 11:00:00.124 [4711]: opensock: getaddrinfo returned for www.example.org:80
CONNECT   Nov 30 11:00:00.124 [4711]: Established connection to host "www.example.org" using file descriptor 6.
INFO      Nov 30 11:00:00.125 [4711]: Closed connection between local client (fd:5) and remote client (fd:6)
`)
	for _, c := range []struct {
		name  string
		level tinyproxy.LogLevel
		logs  rate.Limit
	}{{"logged", "info", rate.Inf}, {"beyond", "info", logRate}, {"notice", "notice", logRate}} {
		b.Run(c.name, func(b *testing.B) {
			v := newVMLog("social", func(events.Denial) {}, func(events.Visit) {}, func(events.Visit) {}, nil)
			v.lines.SetLimit(c.logs)
			v.open(netip.Addr{}, b.TempDir()+"/log")
			requests := tinyproxy.NewRequests(&tinyproxy.Config{}, 0, v.denied, v.visited)
			requests.OnPass(v.admitted)
			out := output{log: v, level: c.level, requests: requests}
			b.ReportAllocs()
			begin := times()
			for i := 0; b.Loop(); i++ {
				out.Write(said)
				if i%20 == 19 { // what is read in a turn
					v.flush(time.Minute)
				}
			}
			b.ReportMetric(float64(times()-begin)/float64(b.N), "cpu-ns/op")
			v.close(time.Minute)
		})
	}
}

// times returns the CPU time of this process.
func times() time.Duration {
	var used unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
