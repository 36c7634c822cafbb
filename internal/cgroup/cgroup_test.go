package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain plays a process that enters a group of its own and starts another one there.
func TestMain(m *testing.M) {
	if len(os.Args) != 2 || os.Args[1] != "enter" {
		os.Exit(m.Run())
	}
	p, err := Enter()
	if err != nil {
		fmt.Println(err)
		return
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Dir)
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := p.Leave(); err != nil {
		fmt.Println(err)
	}
	fmt.Println(child.Wait())
}

// An entered is a process in a group of its own.
type entered struct {
	*exec.Cmd
	in   io.Closer
	said *bufio.Scanner
	dir  string
}

func enter(t *testing.T) entered {
	t.Helper()
	cmd := exec.Command(os.Args[0], "enter")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	e := entered{cmd, in, bufio.NewScanner(out), ""}
	if !e.said.Scan() || !strings.HasPrefix(e.said.Text(), "/") {
		t.Fatalf("enter: %s", e.said.Text())
	}
	e.dir = e.said.Text()
	return e
}

func TestGroupIsMadeAndRemoved(t *testing.T) {
	withGroups(t)
	e, other := enter(t), enter(t)
	pids, err := Processes(e.dir)
	if err != nil || len(pids) != 2 || !slices.Contains(pids, e.Process.Pid) {
		t.Errorf("in the group: %d, %v; want %d and its child", pids, err, e.Process.Pid)
	}
	// A crash leaves what it has started. The next one removes it, and nothing of one that lives.
	must(t, e.Process.Kill())
	_ = e.Wait()
	if pids, err := Processes(e.dir); err != nil || len(pids) != 1 {
		t.Errorf("left in the group: %d, %v; want the child", pids, err)
	}
	third := enter(t)
	if _, err := os.Stat(e.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the group of a process that was killed: %v", err)
	}
	if pids, err := Processes(other.dir); err != nil || len(pids) != 2 {
		t.Errorf("in the group of a process that lives: %d, %v", pids, err)
	}

	for _, e := range []entered{other, third} {
		must(t, e.in.Close())
		if !e.said.Scan() || e.said.Text() != "signal: killed" {
			t.Errorf("at the end, the child: %s", e.said.Text())
		}
		must(t, e.Wait())
		if _, err := os.Stat(e.dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after the end: %v", err)
		}
	}
}

// TestKillEach: what Linux has done by cgroup.kill since 5.14 is done before by a signal to each process.
func TestKillEach(t *testing.T) {
	withGroups(t)
	e := enter(t)
	pids, err := Processes(e.dir)
	if err != nil || len(pids) != 2 {
		t.Fatalf("in the group: %d, %v", pids, err)
	}
	must(t, killEach(e.dir))
	if err := e.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process: %v", err)
	}
	must(t, remove(e.dir))
	if pids, err := Processes(e.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the group has been removed: %d, %v", pids, err)
	}
}

func TestUnit(t *testing.T) {
	for dir, want := range map[string]string{
		"/g/vifproxyd.service": "/g/vifproxyd.service", "/g/vifproxyd.service/daemon": "/g/vifproxyd.service",
		"/g/vifproxyd.service/.control": "/g/vifproxyd.service",
	} {
		if got := Unit(dir); got != want {
			t.Errorf("%s belongs to %s, want %s", dir, got, want)
		}
	}
	if _, err := Processes(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no cgroup of version 2") {
		t.Error(err)
	}
}

// withGroups mounts the groups where this process finds them, if the machine has not.
func withGroups(t *testing.T) {
	t.Helper()
	if _, err := Own(); !errors.Is(err, ErrNone) {
		must(t, err)
		return
	}
	dir := filepath.Join(t.TempDir(), "cgroup2")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount("none", dir, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
