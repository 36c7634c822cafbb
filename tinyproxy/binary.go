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
