package doctor

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	programTimeout = 10 * time.Second // of a program that doctor runs
	outputTimeout  = time.Second      // of what it has left behind that holds its output open
)

// run runs a program and returns what it prints; "" if it fails or is not there.
func run(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = outputTimeout
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// qubesdb returns one value of QubesDB, "" if there is none.
func qubesdb(ctx context.Context, path string) string {
	return strings.TrimSuffix(run(ctx, "qubesdb-read", path), "\n")
}

// exists reports whether there is something at a path of the system.
func (c Config) exists(path string) bool {
	_, err := os.Stat(c.Root + path)
	return err == nil
}
