package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// programs is where TestMain has built the real programs, race detector included.
var programs string

// atOnce is how many tests run at once, if -parallel does not say. They wait most of the time, each in a lab of its own; go
// test would run as many as there are CPUs.
const atOnce = 8

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
		programs = dir
		if err := os.Chmod(dir, 0o755); err != nil { // the daemon is not always root
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, args := range [][]string{
			{"-race", "vifproxy/cmd/vifproxyd", "vifproxy/cmd/vifproxyctl", "vifproxy/cmd/vifproxy-qrexec"},
			{"vifproxy/cmd/vifproxy-confine", "vifproxy/cmd/vifproxy-names", "vifproxy/cmd/vifproxy-switchboard", "vifproxy/cmd/vifproxy-client"}, // as shipped: the race detector needs more than a proxy may have
		} {
			build := exec.Command("go", append([]string{"build", "-o", dir}, args...)...)
			if args[0] != "-race" {
				build.Env = append(os.Environ(), "CGO_ENABLED=0") // as shipped, too: the resolver may not open a loader
			}
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build the programs under test: %v\n%s", err, out)
				return 1
			}
		}
		return m.Run()
	}())
}
