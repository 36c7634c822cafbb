package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/await"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy/kernel"
)

// lackingLandlock is the first argument by which this program executes what follows as on a kernel that has Landlock, but not in its list of
// security modules.
const lackingLandlock = "lacking-landlock"

func init() {
	if len(os.Args) > 2 && os.Args[1] == lackingLandlock {
		fmt.Fprintln(os.Stderr, executeLackingLandlock(os.Args[2:]))
		os.Exit(1)
	}
}

// executeLackingLandlock makes landlock_create_ruleset(2) fail with EOPNOTSUPP, as such a kernel does.
func executeLackingLandlock(command []string) error {
	runtime.LockOSThread() // the filter is the thread's
	path, err := exec.LookPath(command[0])
	if err != nil {
		return err
	}
	statement := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	program := []unix.SockFilter{
		statement(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0), // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_LANDLOCK_CREATE_RULESET},
		statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(unix.EOPNOTSUPP)),
		statement(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW),
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	return os.NewSyscallError("execve", syscall.Exec(path, command, os.Environ()))
}

// TestWithoutLandlock: the daemon serves on a kernel without Landlock, and says what is missing and how to get it. Where the kernel
// has Landlock, a filter stands for one that has it switched off.
func TestWithoutLandlock(t *testing.T) {
	t.Parallel()
	s := newSite(t, lab.R42)
	cause, remedy := "the kernel has it, but not switched on (it is not in lsm=)", "lsm=landlock,"
	if _, lacks := kernel.Landlock(); slices.ContainsFunc(lacks, func(l kernel.Lack) bool { return !l.InPart }) {
		s.Logf("this kernel: %v", lacks[0])
		if lacks[0].Cause != cause { // it is older, say; the whole list of modules cannot be read in a lab, whose /sys is new
			cause, remedy = lacks[0].Cause, lacks[0].Remedy
		}
	} else {
		self, err := os.Executable()
		s.must(err)
		s.within = []string{self, lackingLandlock}
	}
	s.startWork()
	s.opens("work", "https://bank.example/")
	s.must(s.refused("work", "http://shop.example/"))

	c := s.show()["work"].Confinement
	if c == nil || slices.Contains(c.Applied, "landlock") || !slices.Contains(c.Applied, "seccomp") {
		t.Fatalf("confinement %+v", c)
	}
	at := slices.IndexFunc(c.Missing, func(l control.Lack) bool { return l.Mechanism == "landlock" })
	if at < 0 || c.Missing[at].InPart || c.Missing[at].Cause != cause || !strings.Contains(c.Missing[at].Remedy, remedy) {
		t.Errorf("missing %+v, want Landlock: %s (%s)", c.Missing, cause, remedy)
	}
	if log := s.daemon.log.String(); strings.Count(log, "proxies are not fully confined") != 1 || !strings.Contains(log, cause) {
		t.Errorf("the log does not say once that Landlock is missing:\n%s", log)
	}
	if out := s.doctor(); !strings.Contains(out, "landlock: "+cause) || !strings.Contains(out, remedy) {
		t.Errorf("doctor says nothing of Landlock:\n%s", out)
	}
	if out, _, _ := s.ctl("show"); !strings.Contains(out, "work (10.137.0.11): not fully confined: ") {
		t.Errorf("show:\n%s", out)
	}
	s.stop()

	d := s.launch("--require-confinement")
	await.Value(s.T, "the end of vifproxyd", d.exited)
	if log := d.log.String(); d.err == nil || !strings.Contains(log, cause) {
		t.Errorf("without Landlock, which is required: %v\n%s", d.err, log)
	}
	s.nothingLeft()
}
