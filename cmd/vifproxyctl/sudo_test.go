package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/events"
)

// A user for whom sudo wants no password, as in Qubes, is offered what root is offered; one for whom it wants one is offered
// nothing, and is asked for nothing. The sudo is the real one, with a policy of its own.
func TestCompletionWithoutRoot(t *testing.T) {
	if _, err := exec.LookPath("sudo"); err != nil || os.Geteuid() != 0 {
		t.Skip("this needs root and sudo")
	}
	dir := t.TempDir()
	for _, path := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "vifproxyctl")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	socket := filepath.Join(dir, "run", "control.sock")
	l, err := control.Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	daemon := &fakeDaemon{
		status: control.Status{VMs: []control.VM{{Name: "banking", IP: "10.137.0.11", State: control.Running}}},
		denied: []events.Denied{{VM: "banking", Hosts: []events.DeniedHost{{Host: "cdn.example", Reason: events.ReasonList, Count: 2}}}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- control.Serve(ctx, l, daemon, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := await.Value(t, "the end of Serve", served); err != nil {
			t.Error(err)
		}
	})

	const script = `mount -t tmpfs -o mode=0755 none /etc/sudoers.d && echo "$1" > /etc/sudoers.d/test && chmod 0440 /etc/sudoers.d/test &&
		shift && exec setpriv --reuid=nobody --clear-groups --regid=nogroup "$@"`
	for policy, offers := range map[string]string{
		"nobody ALL=(ALL) NOPASSWD: ALL": "cdn.example",
		"nobody ALL=(ALL) ALL":           "",
		"":                               "",
	} {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", script, "sh", policy, program, "complete", "--",
			"--socket="+socket, "allow", "banking", "")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		word, _, _ := strings.Cut(string(out), "\t")
		if err != nil || word != offers || stderr.String() != "" {
			t.Errorf("with %q in sudoers %q is offered, want %q (%v, %s)", policy, out, offers, err, &stderr)
		}
	}
}
