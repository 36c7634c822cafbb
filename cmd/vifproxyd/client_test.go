package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vifproxy/internal/lab"
)

// vifproxy-client finds the proxy at the gateway, and leaves no refusal behind. Its files lead programs
// to the proxy.
func TestTheClientFindsItsProxy(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	s.rules("banking.10.137.0.11", "#: format domains", "bank.example")
	s.start()
	s.attach("banking", "10.137.0.11")
	s.opens("banking", "http://bank.example/")
	root := t.TempDir()
	s.must(os.MkdirAll(filepath.Join(root, "etc/apt"), 0o755))
	setup := func(wait time.Duration) string {
		s.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := s.VMCommand(ctx, "banking", filepath.Join(programs, "vifproxy-client"), "setup", "--wait="+wait.String(), "--root="+root).CombinedOutput()
		if err != nil {
			t.Fatalf("setup: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := setup(patience / 2); !strings.Contains(out, "programs of this VM use the proxy") {
		t.Fatalf("setup: %s", out)
	}
	if hosts := s.denied("banking")["banking"].Hosts; len(hosts) != 0 {
		t.Errorf("denied has %+v", hosts)
	}
	in := func(script string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := s.VMCommand(ctx, "banking", "env", "-i", "PATH="+os.Getenv("PATH"), "sh", "-euc", script)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	profile := filepath.Join(root, "etc/profile.d/00-vifproxy.sh")
	if out, err := in(". " + profile + "; curl -sS http://bank.example/"); err != nil || !strings.Contains(out, "hello from bank.example") {
		t.Errorf("curl: %v\n%s", err, out)
	}
	if out, err := in("http_proxy=http://192.0.2.1:1/; . " + profile + "; echo $http_proxy"); err != nil || out != "http://192.0.2.1:1/\n" {
		t.Errorf("what a user has set is %q, %v", out, err)
	}
	// git fails only because there is no repository; its request was refused, not lost.
	if out, err := in(". " + profile + "; git ls-remote https://git.example/x"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("git: %v\n%s", err, out)
	}
	s.until("denied has what git asked for", func() error {
		if hosts := s.denied("banking")["banking"].Hosts; len(hosts) != 1 || hosts[0].Host != "git.example" {
			return fmt.Errorf("%+v", hosts)
		}
		return nil
	})

	// Without a proxy, what was written goes.
	s.stop()
	if out := setup(0); !strings.Contains(out, "no proxy answers") {
		t.Errorf("setup: %s", out)
	}
	if _, err := os.Stat(profile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what setup wrote is there: %v", err)
	}
}
