package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// programs is where TestMain has built the real programs, race detector included.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		os.Setenv("GORACE", "atexit_sleep_ms=10") // instead of a second, at the end of each program
		dir, err := os.MkdirTemp("", "vifproxy-programs-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		programs = dir
		if err := os.Chmod(dir, 0o755); err != nil { // the daemon is not always root
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, args := range [][]string{
			{"-race", "vifproxy/cmd/vifproxyd", "vifproxy/cmd/vifproxyctl"},
			{"vifproxy/cmd/vifproxy-confine"}, // as shipped: the race detector needs more than a proxy may have
		} {
			build := exec.Command("go", append([]string{"build", "-o", dir}, args...)...)
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build the programs under test: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}
