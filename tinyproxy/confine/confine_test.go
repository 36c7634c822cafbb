package confine

import (
	"slices"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
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
