package confine

import (
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// TestFiltersFit assembles the lists for both machines: every name must be known on one of them at least,
// and those without which nothing runs on both.
func TestFiltersFit(t *testing.T) {
	var names []string
	names = append(names, allowed...)
	for _, c := range allowedIf() {
		names = append(names, c.Name)
	}
	for _, name := range names {
		if len(known(arch.X86_64, name))+len(known(arch.AARCH64, name)) == 0 {
			t.Errorf("no machine knows of %s", name)
		}
	}
	for _, name := range []string{"openat", "read", "write", "mmap", "clone", "futex", "ppoll", "accept", "connect",
		"sendto", "socket", "rt_sigreturn", "exit_group", "execve", "getrandom"} {
		for _, machine := range []*arch.Info{arch.X86_64, arch.AARCH64} {
			if !slices.Contains(names, name) || len(known(machine, name)) == 0 {
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

func TestHandledByOlderKernels(t *testing.T) {
	for abi, want := range map[int]string{
		1: "truncating files (Linux 6.2), TCP ports (Linux 6.7), device ioctls (Linux 6.10), signals (Linux 6.12)",
		4: "device ioctls (Linux 6.10), signals (Linux 6.12)",
		7: "",
		9: "",
	} {
		attr, missing := handled(abi)
		if got := strings.Join(missing, ", "); got != want {
			t.Errorf("ABI %d: %s", abi, got)
		}
		const write = unix.LANDLOCK_ACCESS_FS_WRITE_FILE
		if (attr.Handled_access_net != 0) != (abi >= 4) || attr.Handled_access_fs&write == 0 {
			t.Errorf("ABI %d: %+v", abi, attr)
		}
	}
}

func TestKernelsThatLetACallPass(t *testing.T) {
	for release, want := range map[string]bool{
		"4.19.0-26-amd64": false, "5.0.0": false, "5.4.293-1.qubes.x86_64": false, "5.5-rc1": true, "5.5.0": true,
		"5.15.189": true, "6.1.0-37-amd64": true, "6.18.44-fc-v657": true, "10.0": true, "": false, "linux": false,
	} {
		if got := letsPass(release); got != want {
			t.Errorf("%q: %t", release, got)
		}
	}
}
