package confine

import (
	"slices"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// TestFiltersFit assembles the lists for both machines: every name must be known on one of them at least,
// and those without which nothing runs on both.
func TestFiltersFit(t *testing.T) {
	var names []string
	names = append(names, allowedCalls...)
	for _, c := range allowedCallsIf() {
		names = append(names, c.Name)
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
		if slices.Contains(names, name) {
			t.Errorf("%s is allowed", name)
		}
	}
}
