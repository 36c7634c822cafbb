package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vifproxy/internal/await"
	"vifproxy/internal/defaults"
	"vifproxy/internal/logtail"
)

// A followed log goes on through everything that can happen to the file, and says each line once.
func TestLogIsFollowed(t *testing.T) {
	fake := t.TempDir()
	dir := filepath.Join(fake, defaults.RuntimeDir, "bank")
	path := filepath.Join(dir, "log")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(path, text string) { // appends
		t.Helper()
		check(os.MkdirAll(filepath.Dir(path), 0o755))
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		check(err)
		_, err = file.WriteString(text)
		check(err)
		check(file.Close())
	}
	write(path+".1", "before\n")
	write(path, "one\n")

	cmd := exec.Command("/proc/self/exe", "--socket="+filepath.Join(fake, "none"), "log", "-f", "bank")
	cmd.Args[0] = "vifproxyctl"
	cmd.Env = []string{"FAKE_ROOT=" + fake, "GORACE=atexit_sleep_ms=0", "GOCOVERDIR=" + t.TempDir()}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	check(err)
	check(cmd.Start())
	defer cmd.Process.Kill() //nolint:errcheck // it has ended, unless the test failed
	lines := make(chan string)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			lines <- in.Text()
		}
	}()
	expect := func(want ...string) {
		t.Helper()
		for _, line := range want {
			select {
			case got := <-lines:
				if got != line {
					t.Fatalf("got %q, want %q", got, line)
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("%q never came", line)
			}
		}
	}
	expect("before", "one")
	write(path, "two\n")
	expect("two")

	write(path, "three\n")
	check(os.Rename(path, path+".1"))
	write(path+".1", "a late one\n") // by who has it open still
	write(path, "four\n")
	expect("three", "a late one", "four")

	check(os.RemoveAll(dir)) // the daemon ends, and another comes
	write(path, "five\n")
	expect("five")

	check(os.Truncate(path, 0))
	write(path, "6\n")
	expect("6")

	elsewhere := filepath.Join(fake, "elsewhere") // by a new template
	write(elsewhere, "seven\n")
	check(os.Remove(path))
	check(os.Symlink(elsewhere, path))
	expect("seven")

	write(elsewhere, "in two ")
	write(elsewhere, "parts\n\x1b[2J\u202e\xff\n")
	expect("in two parts", `\x1b[2J\u202e\xff`)
	long := strings.Repeat("x", logtail.LineMax) // what is longer is cut in pieces
	write(elsewhere, long+long+"y\nlast\n")
	for rest := len(long) + len(long) + 1; rest > 0; {
		piece := await.Value(t, "the rest of a long line", lines)
		if len(piece) == 0 || len(piece) > 2*logtail.LineMax || strings.Trim(piece, "xy") != "" {
			t.Fatalf("%d bytes: %.20q", len(piece), piece)
		}
		rest -= len(piece)
	}
	expect("last")

	check(cmd.Process.Signal(syscall.SIGINT))
	if line := await.Value(t, "the end of its output", lines); line != "" {
		t.Errorf("one more line: %q", line)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
