package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/leftover"
)

// TestUnexpectedEnd is for proxies that end while they run.
func TestUnexpectedEnd(t *testing.T) {
	l := newLauncher(t, nil)
	for sig, want := range map[unix.Signal]string{
		unix.SIGKILL: "proxy for social (10.137.238.72): tinyproxy was killed by SIGKILL " +
			"(by a person, or for lack of memory: see the kernel's log)",
		unix.SIGTERM: "tinyproxy ended by itself with status 0 (somebody sent it SIGTERM)",
	} {
		p := start(t, l, realBinary, newSpec(l, "social", 61000))
		told := make(chan error)
		tell := func() { told <- p.Err() }
		p.WhenDone(tell)
		if err := unix.Kill(p.PID, sig); err != nil {
			t.Fatal(err)
		}
		// tinyproxy looks for the signal before it polls, so it may sleep over one: wake it.
		if conn, err := net.Dial("tcp", p.Spec.Listen.String()); err == nil {
			conn.Close()
		}
		await.Value(t, "the end of the process", p.Done())
		p.WhenDone(tell) // once more, as it has ended already
		for _, err := range []error{p.Err(), await.Value(t, "what is told", told), await.Value(t, "what is told once more", told)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v", sig, err)
			}
		}
		p.Kill() // and it is no harm to do this late
		p.Stop(0)
	}
}

// prefork starts tinyproxy with a child in its group, as 1.10 has them. A child of a shell has no
// parent-death signal, and ignores SIGTERM.
const prefork = `(trap '' TERM; exec sleep 1000) & exec ` + realBinary + ` "$@"`

func TestGroupEndsWithItsLeader(t *testing.T) {
	l := newLauncher(t, nil)
	binary := script(t, prefork)
	for name, end := range map[string]func(*Proxy){
		"stop":  func(p *Proxy) { p.Stop(0) },
		"kill":  (*Proxy).Kill,
		"crash": func(p *Proxy) { unix.Kill(p.PID, unix.SIGKILL) },
	} {
		p := start(t, l, binary, newSpec(l, "social", 61000))
		end(p)
		await.Value(t, "the end of the process: "+name, p.Done())
		if left := running(t, func(_, group int) bool { return group == p.PID }); left != nil {
			t.Errorf("%s: group %d has %s", name, p.PID, left)
		}
	}
}

// TestDaemonKilled kills a daemon and then lets another one look for what is left.
func TestDaemonKilled(t *testing.T) {
	run := filepath.Join(openDir(t), "run")
	daemon := exec.Command("/proc/self/exe")
	daemon.Env = append(os.Environ(), roleVar+"=daemon:"+run+","+script(t, prefork))
	daemon.Stderr = os.Stderr
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	if err := json.Unmarshal(line, &pids); err != nil {
		t.Fatal(err)
	}
	var proxies []*os.File
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.SetNonblock(fd, true)
		proxies = append(proxies, os.NewFile(uintptr(fd), "pidfd"))
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	for _, f := range proxies {
		if err := leftover.AwaitDeath(bounded(t), f); err != nil {
			t.Errorf("%v: %v", pids, err)
		}
		f.Close()
	}
	if got := tree(t, run); got == "" {
		t.Error("the daemon cleaned up, so this test tests nothing")
	}
	l := newLauncher(t, func(o *Options) { o.RuntimeDir = run })
	// A process that ends just then has no network any more, and counts too, even if it is another test's.
	if n, err := l.Reap(bounded(t)); n < 3 || err != nil {
		t.Errorf("reaped %d: %v, want the 3 children of the proxies", n, err)
	}
	if got := tree(t, run); got != "" {
		t.Errorf("left: %s", got)
	}
	if left := running(t, func(_, group int) bool { return slices.Contains(pids, group) }); left != nil {
		t.Errorf("left: %s", left)
	}
}

// TestReapLeavesOthersAlone has processes that look like leftovers and are not.
func TestReapLeavesOthersAlone(t *testing.T) {
	l := newLauncher(t, nil)
	start := func(uid uint32, flags uintptr) (*exec.Cmd, error) {
		cmd := exec.Command("/bin/sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags,
			Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if flags&syscall.CLONE_NEWUSER != 0 {
			id := []syscall.SysProcIDMap{{ContainerID: int(uid), HostID: int(uid), Size: 1}}
			cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = id, id
			cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		}
		err := cmd.Start()
		if err == nil {
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
		}
		return cmd, err
	}
	run := func(uid uint32, flags uintptr) *exec.Cmd {
		t.Helper()
		cmd, err := start(uid, flags)
		if err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	for _, other := range []*exec.Cmd{
		run(tinyproxy.FirstUID-1, 0), run(tinyproxy.LastUID+1, 0),
		run(tinyproxy.FirstUID, syscall.CLONE_NEWNET), // another firewall VM's, in a lab
	} {
		defer func() {
			if running(t, func(pid, _ int) bool { return pid == other.Process.Pid }) == nil {
				t.Errorf("killed %v", other)
			}
		}()
	}
	left := []*exec.Cmd{run(tinyproxy.LastUID, 0)}
	switch hidden, err := start(tinyproxy.LastUID, syscall.CLONE_NEWNET|syscall.CLONE_NEWUSER); {
	case err == nil:
		left = append(left, hidden)
	case errors.Is(err, unix.EPERM): // create_user_ns in the kernel's kernel/user_namespace.c
		t.Log("nobody can hide in a user namespace here: there are none in a chroot")
	default:
		t.Fatal(err)
	}
	// A daemon that another package's test starts at this moment may be the one that finds what hides from all namespaces.
	if n, err := l.Reap(bounded(t)); n < 1 || n > len(left) || err != nil {
		t.Errorf("reaped %d of %d: %v", n, len(left), err)
	}
	for _, cmd := range left {
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Error(err)
		}
	}
}

// running lists the processes, zombies aside, with a pid and process group that satisfy ok.
func running(t *testing.T, ok func(pid, group int) bool) []string {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(paths) == 0 {
		t.Fatal("no processes", err)
	}
	var found []string
	for _, path := range paths {
		stat, _ := os.ReadFile(path) // pid (comm) state ppid pgrp …
		var pid, parent, group int
		var state string
		rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
		fmt.Sscan(string(stat), &pid)
		if _, err := fmt.Sscan(rest, &state, &parent, &group); err == nil && state != "Z" && ok(pid, group) {
			found = append(found, string(stat))
		}
	}
	return found
}

// TestDyingWordsOfOneThatHasServed decide nothing: its AppVM may own it, and says what tinyproxy says of bad rules.
func TestDyingWordsOfOneThatHasServed(t *testing.T) {
	for status, words := range map[int]string{
		tinyproxy.ExitFilter: "Bad regex in %s/rules: line 1 - forged",
		tinyproxy.ExitConfig: "Syntax error on line 1",
		tinyproxy.ExitListen: "forged",
		1:                    "forged",
	} {
		l := newLauncher(t, nil)
		spec := newSpec(l, "social", 61000)
		words := strings.ReplaceAll(words, "%s", filepath.Join(l.options.RuntimeDir, "social/61000"))
		served := filepath.Join(t.TempDir(), "served")
		p := start(t, l, script(t, "trap : TERM; "+realBinary+` "$@" & until [ -e `+served+` ]; do sleep 0.01; done; echo '`+words+
			`'; exit `+fmt.Sprint(status)), spec)
		if err := os.WriteFile(served, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var e *Error
		want := fmt.Sprintf("tinyproxy, which had served, exited with status %d", status)
		if err := p.Err(); !errors.As(err, &e) || e.Config || e.Taken || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "forged") {
			t.Errorf("status %d: %v", status, err)
		}
		written(t, p.log)
		if log := read(t, l.options.RuntimeDir, "social/log"); !strings.Contains(log, words) {
			t.Errorf("its log:\n%s", log)
		}
	}
}
