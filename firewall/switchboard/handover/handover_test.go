package handover_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"vifproxy/firewall/firewalltest"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/firewall/switchboard/programs"
)

// program is vifproxy-switchboard.
var program string

// TestMain plays a daemon that systemd has started, if it is told so.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "daemon" {
		beDaemon(os.Args[2])
		return
	}
	dir, err := os.MkdirTemp("", "vifproxy-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "vifproxy-switchboard")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "vifproxy/cmd/vifproxy-switchboard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// beDaemon says what it gets, and what a program that it executes inherits. Its proxies have the given cgroup.
func beDaemon(group string) {
	inherited := handover.Inherited()
	s, err := handover.Obtain(context.Background(), inherited, handover.Options{Group: group})
	if err != nil {
		fmt.Println(err)
		return
	}
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("bpf")) {
		fmt.Printf("a program inherits: %v\n%s", err, out)
	}
	fmt.Println("ok", os.Getenv("LISTEN_FDS"))
	s.Close()
}

func group(t *testing.T) string {
	t.Helper()
	mount := t.TempDir()
	must(t, unix.Mount("none", mount, "cgroup2", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(mount, unix.MNT_DETACH)) })
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	_, home, _ := strings.Cut("\n"+string(own), "\n0::")
	home, _, _ = strings.Cut(home, "\n")
	dir, err := os.MkdirTemp(filepath.Join(mount, home), "vifproxy-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.Remove(dir)) })
	return dir
}

// attached returns how many programs are attached to the cgroup and to this network namespace.
func attached(t *testing.T, group string) (connections, lookups int) {
	t.Helper()
	count := func(path string, as ebpf.AttachType) int {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		found, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: as})
		must(t, err)
		return len(found.Programs)
	}
	return count(group, ebpf.AttachCGroupSockOps), count("/proc/thread-self/ns/net", ebpf.AttachSkLookup)
}

// Root has started the daemon by hand, so it runs vifproxy-switchboard itself.
func TestByHand(t *testing.T) {
	firewalltest.EnterNamespace(t)
	dir := group(t)
	s, err := handover.Obtain(t.Context(), nil, handover.Options{Program: program, Group: dir})
	must(t, err)
	if c, l := attached(t, dir); c != 1 || l != 1 {
		t.Errorf("attached: %d and %d programs", c, l)
	}
	out, err := exec.Command("ls", "-l", "/proc/self/fd").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("bpf")) {
		t.Errorf("a program inherits: %v\n%s", err, out)
	}
	must(t, s.Close())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) { // the kernel detaches in its own time
		c, l := attached(t, dir)
		if c == 0 && l == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still attached: %d and %d programs", c, l)
		}
	}
}

func TestReasonsByHand(t *testing.T) {
	firewalltest.EnterNamespace(t)
	dir := group(t)
	script := filepath.Join(t.TempDir(), "without-capabilities")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nexec setpriv --inh-caps=-bpf,-sys_admin --bounding-set=-bpf,-sys_admin "+program+` "$@"`), 0o755))
	silent := filepath.Join(t.TempDir(), "silent")
	must(t, os.WriteFile(silent, []byte("#!/bin/sh\n"), 0o755))
	occupied := group(t)
	sleep := exec.Command("sleep", "1000")
	must(t, sleep.Start())
	must(t, os.WriteFile(filepath.Join(occupied, "cgroup.procs"), fmt.Append(nil, sleep.Process.Pid), 0))
	defer func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	}()
	for _, c := range []struct{ program, group, want string }{
		{script, dir, "does not let programs of BPF be loaded: operation not permitted"},
		{program, filepath.Join(dir, "none"), "no such file"},
		{program, occupied, fmt.Sprintf("process %d is in the cgroup", sleep.Process.Pid)},
		{program, "/", "/ is no cgroup"},
		{silent, dir, "has ended before"},
		{filepath.Join(dir, "none"), dir, "run vifproxy-switchboard"},
	} {
		s, err := handover.Obtain(t.Context(), nil, handover.Options{Program: c.program, Group: c.group})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: %v, %v; want %q", c.program, c.group, s, err, c.want)
		}
		if c, l := attached(t, dir); c != 0 || l != 0 {
			t.Errorf("attached: %d and %d programs", c, l)
		}
	}
}

// systemd hands over what it keeps.
func TestFromSystemd(t *testing.T) {
	firewalltest.EnterNamespace(t)
	dir := group(t)
	a, err := programs.Attach(dir)
	must(t, err)
	defer func() { a.Close() }()
	all := a.Descriptors()
	except := func(name string, instead ...handover.Descriptor) (some []handover.Descriptor) {
		for _, d := range all {
			if d.Name != name {
				some = append(some, d)
			}
		}
		return append(some, instead...)
	}
	other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	defer other.Close()
	refused, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	defer refused.Close()
	_, err = refused.WriteString("this machine has no such thing")
	must(t, err)
	number := func(name string) int {
		for _, d := range all {
			if d.Name == name {
				return d.FD
			}
		}
		t.Fatalf("there is no %s", name)
		return 0
	}
	for _, c := range []struct {
		all  []handover.Descriptor
		want string
	}{
		{all, "ok"},
		{append(all[:len(all):len(all)], handover.Descriptor{Name: "stored", FD: int(refused.Fd())}), "ok"},
		{nil, handover.ErrNotLoaded.Error()},
		{[]handover.Descriptor{{Name: handover.RefusedName, FD: int(refused.Fd())}}, "this machine has no such thing"},
		{except("vifproxy-sockets"), "vifproxy-sockets was not handed over"},
		{except("", all[0]), "vifproxy-bindings was handed over twice"},
		{except("vifproxy-bindings", handover.Descriptor{Name: "vifproxy-bindings", FD: other.FD()}),
			`vifproxy-bindings is not what it should be: key_size "4" instead of "8"`},
		{except("vifproxy-bindings", handover.Descriptor{Name: "vifproxy-bindings", FD: number("vifproxy-lookup")}),
			"vifproxy-bindings is not what it should be"},
		{except("vifproxy-lookup", handover.Descriptor{Name: "vifproxy-lookup", FD: number("vifproxy-connections")}),
			"vifproxy-lookup is not what it should be"},
	} {
		if said := daemonSays(t, dir, c.all); !strings.HasPrefix(said, c.want) {
			t.Errorf("%v: %s; want %q", c.all, said, c.want)
		}
	}
	if said, want := daemonSays(t, group(t), all), "vifproxy-connections is attached to another cgroup"; !strings.HasPrefix(said, want) {
		t.Errorf("with another cgroup: %s; want %q", said, want)
	}
	for _, name := range []string{"vifproxy-connections", "vifproxy-lookup"} {
		detach(t, number(name))
		if said, want := daemonSays(t, dir, all), name+" is attached to another"; !strings.HasPrefix(said, want) {
			t.Errorf("%s is detached: %s; want %q", name, said, want)
		}
		a.Close()
		if a, err = programs.Attach(dir); err != nil {
			t.Fatal(err)
		}
		all = a.Descriptors()
	}
	firewalltest.EnterNamespace(t)
	if said, want := daemonSays(t, dir, all), "vifproxy-lookup is attached to another network namespace"; !strings.HasPrefix(said, want) {
		t.Errorf("in another network namespace: %s; want %q", said, want)
	}
}

// detach does what `bpftool link detach` does.
func detach(t *testing.T, fd int) {
	t.Helper()
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	l, err := link.NewFromFD(own)
	must(t, err)
	defer l.Close()
	must(t, l.Detach())
}

// daemonSays starts a daemon as systemd does, with the cgroup of its proxies, and returns what it says.
func daemonSays(t *testing.T, group string, all []handover.Descriptor) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", `export SYSTEMD_EXEC_PID=$$ LISTEN_PID=$$; exec "$0" daemon "$1"`, os.Args[0], group)
	var names []string
	for _, d := range all {
		fd, err := unix.FcntlInt(uintptr(d.FD), unix.F_DUPFD_CLOEXEC, 0)
		must(t, err)
		f := os.NewFile(uintptr(fd), d.Name)
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		names = append(names, d.Name)
	}
	if len(all) > 0 {
		cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(all)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestNotRootByHand(t *testing.T) {
	firewalltest.EnterNamespace(t)                                                   // whose thread does not come back
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, 65534, 0); errno != 0 { // of this thread only
		t.Fatal(errno)
	}
	if _, err := handover.Obtain(t.Context(), nil, handover.Options{Program: program}); err == nil || errors.Is(err, handover.ErrNotLoaded) {
		t.Error(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
