package confine

import (
	"errors"
	"slices"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// TestFiltersFit assembles the lists for both machines: every name must be known on one of them at least,
// and those without which nothing runs on both.
func TestFiltersFit(t *testing.T) {
	names := all(allowedCalls, allowedCallsIf())
	for _, name := range all(nameCalls, nameCallsIf()) {
		if len(onThisMachine(arch.X86_64, name))+len(onThisMachine(arch.AARCH64, name)) == 0 {
			t.Errorf("no machine knows of %s", name)
		}
		for _, never := range []string{"listen", "accept", "accept4", "fork", "kill", "unlink", "ftruncate", "ioctl", "dup2"} {
			if name == never {
				t.Errorf("the resolver may call %s", name)
			}
		}
	}
	for _, name := range names {
		if len(onThisMachine(arch.X86_64, name))+len(onThisMachine(arch.AARCH64, name)) == 0 {
			t.Errorf("no machine knows of %s", name)
		}
	}
	for _, name := range []string{"openat", "read", "write", "mmap", "clone", "futex", "ppoll", "accept", "connect",
		"sendto", "socket", "rt_sigreturn", "exit_group", "execve", "getrandom"} {
		for _, machine := range []*arch.Info{arch.X86_64, arch.AARCH64} {
			if !slices.Contains(names, name) || len(onThisMachine(machine, name)) == 0 {
				t.Errorf("%s is not allowed on %s", name, machine.Name)
			}
		}
	}
	for _, name := range []string{"ptrace", "mount", "bpf", "userfaultfd", "unshare", "setns", "keyctl",
		"memfd_create", "io_uring_setup", "process_vm_readv", "perf_event_open", "pkey_mprotect", "shmat", "personality", "rename"} {
		if slices.Contains(names, name) || slices.Contains(all(nameCalls, nameCallsIf()), name) {
			t.Errorf("%s is allowed", name)
		}
	}
}

// all returns the names of calls on a list, with and without conditions.
func all(calls []string, callsIf []seccomp.NameWithConditions) []string {
	names := slices.Clone(calls)
	for _, c := range callsIf {
		names = append(names, c.Name)
	}
	return names
}

// The child executes vifproxy-confine, whatever numbers the descriptors have that it is given.
func TestForkExec(t *testing.T) {
	program := build(t)
	var lower []int // numbers that are free later
	for range 32 {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		lower = append(lower, fd)
	}
	var s Sandbox
	err := s.openHelper(program)
	defer s.Close()
	for _, fd := range lower {
		err = errors.Join(err, unix.Close(fd))
	}
	pair, errPair := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err := errors.Join(err, errPair); err != nil {
		t.Fatal(err)
	}
	next := int(s.helper.Fd()) - 1 // Go gives the child what comes above the highest of its descriptors
	if err := errors.Join(unix.Dup3(pair[1], next, unix.O_CLOEXEC), unix.Close(pair[1])); err != nil {
		t.Fatal(err)
	}
	pid, err := s.ForkExec(Room{}, next, ProxyScore, nil, nil)
	if err := errors.Join(err, unix.Close(next), unix.Close(pair[0])); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 { // there is no order any more
		t.Errorf("status %#x, %v", status, err)
	}
}
