package vmlog

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
)

const refusedLine = `NOTICE    Nov 23 07:31:08.180 [16035]: Proxying refused on filtered domain "%s"`

// written waits until all lines are, or are dropped.
func written(t *testing.T, v *Log) {
	t.Helper()
	done := make(chan bool)
	v.Then(func() { close(done) })
	await.Value(t, "the lines that are to be written", done)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// line logs a line within the limits.
func (v *Log) line(raw []byte) {
	var b batch
	v.add(&b, raw)
	v.put(&b)
}

func newTestLog(t *testing.T, onDenied func(events.Denial)) (*Log, string) {
	path := filepath.Join(t.TempDir(), "log")
	v := New("social", Listeners{Denied: onDenied}, nil)
	v.Open(netip.MustParseAddr("10.137.0.9"), path)
	return v, path
}

// TestHostileLines has lines come in pieces of several sizes: where a read ends makes no difference.
func TestHostileLines(t *testing.T) {
	for _, size := range []int{1, 7, lineMax, 64 << 10} {
		v, path := newTestLog(t, nil)
		in := io.MultiReader(strings.NewReader("plain\n\x1b[31mred\x00\t\xfe \u202eevil é\r\n\n"),
			io.LimitReader(&endless{'x'}, 1<<20), strings.NewReader("\n"+strings.Repeat("y", lineMax)+"\n"+
				strings.Repeat("z", lineMax+1)+"\nafter\nno newline at the end"))
		out := Output{Log: v}
		for chunk := make([]byte, size); ; {
			n, err := io.ReadFull(in, chunk)
			out.Write(chunk[:n])
			if err != nil {
				break
			}
			if len(out.part) >= lineMax {
				t.Fatalf("%d bytes of a line are kept", len(out.part))
			}
		}
		out.End()
		out.End() // and once more is none
		v.Close(time.Minute)
		want := "plain\n\\x1b[31mred\\x00\\t\\xfe \\u202eevil é\n\n" + strings.Repeat("x", lineMax) + "\n" +
			strings.Repeat("y", lineMax) + "\n" + strings.Repeat("z", lineMax) + "\nafter\nno newline at the end\n"
		if got := read(t, path); got != want {
			t.Errorf("in pieces of %d: %.200q", size, got)
		}
		if got := out.Said.Lines(); len(got) != 5 || got[4] != "no newline at the end" {
			t.Errorf("in pieces of %d: tail %.100q", size, got)
		}
	}
}

type endless struct{ b byte }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.b
	}
	return len(p), nil
}

// TestFlood has an AppVM make hundreds of requests a second for a quarter of an hour.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reported := 0
		v, path := newTestLog(t, func(d events.Denial) {
			if d.Host != "example.org" || d.VM != "social" || d.IP.String() != "10.137.0.9" || d.Reason != events.ReasonList {
				t.Fatalf("%+v", d)
			}
			reported++
		})
		out := Output{Log: v, Requests: tinyproxy.NewRequests(&tinyproxy.Config{}, 0, v.Denied, v.Visited)}
		say := func(line string) { fmt.Fprintln(&out, line) }
		say("first")
		line := fmt.Sprintf(refusedLine, "example.org")
		const requests, seconds = 225_000, 900
		for range seconds {
			for range requests / seconds {
				say(line)
			}
			time.Sleep(time.Second)
		}
		if reported != requests {
			t.Errorf("%d reports of %d refusals", reported, requests)
		}
		say("last")
		written(t, v)
		got := read(t, path+".1") + read(t, path)
		if !strings.HasPrefix(got, "first\n") ||
			!strings.HasSuffix(got, " lines dropped here\nlast\n") {
			t.Errorf("log is %d bytes, %.100q…", len(got), got)
		}
		v.Close(time.Minute)
	})
}

// Lines that are read at once are written at once. While the file system does not answer, they take one place in the queue, and so fit.
func TestLinesThatComeAtOnce(t *testing.T) {
	v, path := newTestLog(t, nil)
	gate := make(chan struct{})
	v.queue.Then(func() { <-gate })
	o := Output{Log: v}
	var want strings.Builder
	for i := range 20 {
		from := want.Len()
		for j := range queueMax / 10 {
			fmt.Fprintf(&want, "%d.%d \n", i, j)
		}
		fmt.Fprintf(&want, "\xff")
		_, _ = o.Write([]byte(want.String()[from:])) // its last line ends in the next one
	}
	o.End()
	close(gate)
	v.Close(time.Minute)
	if got, want := read(t, path), strings.ReplaceAll(want.String(), "\xff", `\xff`)+"\n"; got != want {
		t.Errorf("log has %d lines, want %d: %.200q…", strings.Count(got, "\n"), strings.Count(want, "\n"), got)
	}
}

// The log says where lines are missing, and how many, whatever came at once with them.
func TestLostLinesAmongOthers(t *testing.T) {
	v, path := newTestLog(t, nil)
	v.lines.SetBurst(3 * len("one\n"))
	v.lines.SetLimit(0)
	o := Output{Log: v}
	_, _ = fmt.Fprintf(&o, "one\n%s\ntwo\n%s\n", strings.Repeat("x", 20), strings.Repeat("\x1b", 3))
	_, _ = fmt.Fprintf(&o, "six\n")
	v.Close(time.Minute)
	if got, want := read(t, path), "one\nvifproxyd: 1 lines dropped here\ntwo\nvifproxyd: 1 lines dropped here\nsix\n"; got != want {
		t.Errorf("log is %q, want %q", got, want)
	}
}

func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v, path := newTestLog(t, nil)
		for i := range 5000 {
			v.line(fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 1000)))
			time.Sleep(time.Second)
		}
		v.Close(time.Minute)
		for _, p := range []string{path, path + ".1"} {
			if info, err := os.Stat(p); err != nil || info.Size() > logMax || info.Size() < logMax/10 {
				t.Errorf("%s: %v, %v", p, info, err)
			}
		}
		if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 2 {
			t.Errorf("files %v, %v", files, err)
		}
		v, _ = newTestLog(t, nil)
		v.Open(netip.MustParseAddr("10.137.0.9"), path)
		v.line([]byte("again"))
		written(t, v)
		if got := read(t, path); !strings.Contains(got, "4999 ") || !strings.HasSuffix(got, "\nagain\n") {
			t.Error("a log that is opened again is not continued")
		}
		v.Close(time.Minute)
	})
}

// TestBadLogFiles writes to nothing but regular files, complains once, and recovers.
func TestBadLogFiles(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	path := filepath.Join(dir, "log")
	for name, make := range map[string]func() error{
		"symlink":   func() error { return os.Symlink("victim", path) },
		"FIFO":      func() error { return syscall.Mkfifo(path, 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
	} {
		if err := os.WriteFile(victim, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := make(); err != nil {
			t.Fatal(err)
		}
		v := New("social", Listeners{}, nil)
		v.Open(netip.MustParseAddr("10.137.0.9"), path)
		v.line([]byte("one"))
		v.line([]byte("two"))
		written(t, v)
		if err := v.Problem(); err == nil || read(t, victim) != "" {
			t.Errorf("%s: victim %q, %v", name, read(t, victim), err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		v.line([]byte("three"))
		v.line([]byte("four"))
		written(t, v)
		if got := read(t, path); got != "vifproxyd: 2 lines dropped here\nthree\nfour\n" || v.Problem() != nil {
			t.Errorf("%s: %q, %v", name, got, v.Problem())
		}
		v.Close(time.Minute)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
