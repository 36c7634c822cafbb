// Package capability is about who gets which of the daemon's capabilities (capabilities(7)).
//
// As root it hands them down to what it executes as root, and a change of user takes them away. Its unit has it run
// as another user, with a few of them in its ambient set, which execve(2) and setuid(2) from one such user to another
// leave alone: there whoever is started is to be told what he does not get.
package capability

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sets are those of a thread; a capability c is bit c%32 of word c/32.
type sets [2]unix.CapUserData

var header = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}

func own() (s sets, err error) {
	h := header
	return s, os.NewSyscallError("capget", unix.Capget(&h, &s[0]))
}

// Have tells whether the calling thread may use c.
func Have(c int) bool {
	s, err := own()
	return err == nil && s.effective(c)
}

func (s sets) effective(c int) bool { return s[c/32].Effective&(1<<(c%32)) != 0 }

// Drop takes all capabilities from what the calling thread will execute, without taking them from the thread. It
// cannot be undone. Without CAP_SETPCAP the bounding set stays as it is.
func Drop() error { return Leave() }

// Leave is Drop for all capabilities but those given, of which what the thread executes gets those that the thread has:
// as root by the bounding set, else by the ambient set.
func Leave(these ...int) error {
	s, err := own()
	if err != nil {
		return err
	}
	for c := 0; s.effective(unix.CAP_SETPCAP); c++ {
		if slices.Contains(these, c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break // that was the last one
		} else if err != nil {
			return os.NewSyscallError("drop capabilities from the bounding set", err)
		}
	}
	s[0].Inheritable, s[1].Inheritable = 0, 0 // and so the ambient set: it is never more
	for _, c := range these {
		s[c/32].Inheritable |= 1 << (c % 32) & s[c/32].Permitted
	}
	h := header
	if err := unix.Capset(&h, &s[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	for _, c := range these {
		if s[c/32].Inheritable&(1<<(c%32)) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return os.NewSyscallError("raise ambient capabilities", err)
		}
	}
	return nil
}

// Keep has what the process executes from now on get no capability from the ambient set. A program built with cgo, as for the race detector, cannot change all of its threads
// (syscall.AllThreadsSyscall), and stays as it is.
func Keep() error {
	s, err := own()
	if err != nil {
		return err
	}
	s[0].Inheritable, s[1].Inheritable = 0, 0
	h := header
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&s[0])), 0)
	if errno != 0 && errno != unix.ENOTSUP {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}
