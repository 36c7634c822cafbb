package main

import (
	"bytes"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"vifproxy/internal/bench"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vifproxylab": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		env.Defer(func() { // a script that failed may leave its lab
			if client, err := rpc.Dial("unix", filepath.Join(env.WorkDir, "state", "socket")); err == nil {
				client.Call("Lab.Down", none, new(int)) //nolint:errcheck // it was the script that failed
				client.Close()
			}
		})
		return nil
	}})
}

// The help names the figures as the table has them.
func TestHelpNamesTheFigures(t *testing.T) {
	if want := "NAME is one of " + strings.Join(bench.Names(), " ") + " vifproxylab up"; !strings.Contains(
		strings.Join(strings.Fields(usage), " "), want) {
		t.Errorf("the help does not say %q", want)
	}
}

// The demo checks itself; the test also wants it to say why, when the daemon does not play along.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "vifproxy/cmd/vifproxyd", "vifproxy/cmd/vifproxyctl",
		"vifproxy/cmd/vifproxy-confine", "vifproxy/cmd/vifproxy-names", "vifproxy/cmd/vifproxy-switchboard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the resolver may not open a loader
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	daemon, ctl := filepath.Join(dir, "vifproxyd"), filepath.Join(dir, "vifproxyctl")

	var out bytes.Buffer
	if err := demo(t.Context(), &out, daemon, ctl); err != nil || strings.Contains(out.String(), "WRONG") {
		t.Errorf("%v; the demo said:\n%s", err, &out)
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > 170 { // what the curl of Debian sid says of a refused connection is longest
			t.Errorf("nobody reads a line as long as %q", line)
		}
	}
	err := demo(t.Context(), &out, "/bin/false", ctl)
	if err == nil || !strings.Contains(err.Error(), "does not become ready") {
		t.Errorf("with a daemon that fails: %v", err)
	}
}
