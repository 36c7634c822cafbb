package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// programs is where TestMain has built the real programs, as they are shipped. raced is where the daemon has the race detector,
// beside the programs that it starts.
var programs, raced string

// atOnce is how many tests run at once, if -parallel does not say, half of them in two labs each. They wait much of the time; go test
// would run as many as there are CPUs. They begin in no certain order, so `make test` has a run of their own for the longest.
const atOnce = 6

func TestMain(m *testing.M) {
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if !given["test.parallel"] {
		flag.Set("test.parallel", strconv.Itoa(atOnce)) //nolint:errcheck // it is a number
	}
	os.Exit(func() int {
		os.Setenv("GORACE", "atexit_sleep_ms=10") // instead of a second, at the end of each program
		dir, err := os.MkdirTemp("", "vifproxy-programs-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		programs, raced = dir, filepath.Join(dir, "raced")
		if err := build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build() error {
	if err := os.Mkdir(raced, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(programs, 0o755); err != nil { // the daemon is not always root
		return err
	}
	helpers := []string{"vifproxy-confine", "vifproxy-names", "vifproxy-switchboard"}
	shipped := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", programs}
	for _, name := range append(helpers, "vifproxyd", "vifproxyctl", "vifproxy-client", "vifproxy-qrexec") {
		shipped = append(shipped, "vifproxy/cmd/"+name)
	}
	for _, args := range [][]string{shipped, {"build", "-race", "-trimpath", "-ldflags=-s -w", "-o", raced, "vifproxy/cmd/vifproxyd"}} {
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if args[1] == "-race" { // it needs cgo
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
		}
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the programs under test: %w\n%s", err, out)
		}
	}
	for _, name := range helpers { // the race detector needs more than a proxy may have
		if err := os.Link(filepath.Join(programs, name), filepath.Join(raced, name)); err != nil {
			return err
		}
	}
	return nil
}
