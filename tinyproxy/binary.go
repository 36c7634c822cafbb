package tinyproxy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"vifproxy/internal/terminal"
	"vifproxy/internal/unanswered"
)

// A Binary identifies a tinyproxy program file. Two that compare equal are the same file with the same content, as far as the
// file system knows.
type Binary struct {
	Path     string
	dev, ino uint64
	size     int64
	changed  time.Time
}

// Identify looks at the file without running it. An error says why the file cannot be run.
func Identify(path string) (Binary, error) {
	const remedy = "install the package tinyproxy, or name the program with --tinyproxy"
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return Binary{}, fmt.Errorf("no tinyproxy program: %w (%s)", err, remedy)
	case !info.Mode().IsRegular():
		return Binary{}, fmt.Errorf("tinyproxy program %s is not a regular file (%s)", path, remedy)
	case info.Mode().Perm()&0o005 != 0o005:
		return Binary{}, fmt.Errorf("tinyproxy program %s may not be executed by everybody (chmod 755 it)", path)
	}
	st := info.Sys().(*syscall.Stat_t)
	return Binary{
		Path: path, dev: st.Dev, ino: st.Ino, size: st.Size,
		changed: time.Unix(st.Ctim.Unix()), // mtime can be set back, and package managers do so
	}, nil
}

// identifyTimeout is how long the file system of a program may take to find it.
const identifyTimeout = 2 * time.Second

// A Finder identifies programs, although one may be on a file system that does not answer. The zero value is ready. It may be used from any
// goroutine.
type Finder struct{ unanswered unanswered.Questions }

type identified struct {
	binary Binary
	err    error
}

// Identify is the function Identify for one goroutine. While an earlier question waits for its answer, it fails at once.
func (f *Finder) Identify(path string) (Binary, error) { return f.identify(path, unanswered.Ask) }

// InTurn is Identify for several goroutines. It waits for an earlier question too.
func (f *Finder) InTurn(path string) (Binary, error) { return f.identify(path, unanswered.InTurn) }

func (f *Finder) identify(path string, ask func(*unanswered.Questions, string, time.Duration, func() identified) (identified, bool)) (Binary, error) {
	found, ok := ask(&f.unanswered, path, identifyTimeout, func() identified {
		b, err := Identify(path)
		return identified{b, err}
	})
	if !ok {
		return Binary{}, fmt.Errorf("tinyproxy program %s is on a file system that does not answer", path)
	}
	return found.binary, found.err
}

// Version runs the program, as nobody, and returns the name that it prints: "tinyproxy 1.11.1".
func (b Binary) Version(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, b.Path, "-v")
	cmd.Env, cmd.Dir, cmd.WaitDelay = Environment, "/", outputTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &nobody}
	var out []byte
	err := onThreadWithoutCaps(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", b.Path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return terminal.Escape(first[:min(len(first), 80)]), nil
}
