package process

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
