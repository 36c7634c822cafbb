package tinyproxy

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

const realBinary = "/usr/bin/tinyproxy"

// openDir returns a new directory that every uid can search, which t.TempDir's is not.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// script writes an executable that plays a broken tinyproxy, but says the version of the real one.
func script(t testing.TB, body string) string {
	t.Helper()
	return program(t, `[ "$1" = -v ] && exec `+realBinary+" -v\n"+body)
}

// program is a shell script that does the same whatever it is asked.
func program(t testing.TB, body string) string {
	t.Helper()
	path := filepath.Join(openDir(t), "fake")
	syscall.ForkLock.RLock() // a program that starts meanwhile would have it open for writing
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// bounded ends a test that hangs with a useful message; nothing is timed by it.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
