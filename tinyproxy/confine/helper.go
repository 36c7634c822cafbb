package confine

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func (s *Sandbox) openHelper(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("no program to confine proxies with: open %s: %w (reinstall vifproxy)", path, err)
	}
	defer unix.Close(fd)
	// The child must not give its number to anything else before it executes. It gives away those that it is told, from 0 on, and the
	// next ones above all that it is given (forkAndExecInChild1 in package syscall of Go 1.26): null is among these, and above.
	const above = 16
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s.helper = os.NewFile(uintptr(dup), path)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("standard input for proxies: %w", err)
	}
	defer null.Close()
	if dup, err = unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, dup+1); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	s.null = os.NewFile(uintptr(dup), os.DevNull)
	if info, err := s.helper.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o005 != 0o005 {
		return fmt.Errorf("%s may not be executed by everybody (chmod 755 it)", path)
	}
	return nil
}

// ForkExec starts a vifproxy-confine that enters a Room, and waits for what HandOver sends to the other end of socket. score is
// [ProxyScore] or [NamesScore]. The path leads through our descriptor, because the proxy's user may not be able to pass the directories
// on the way to the file.
func (s *Sandbox) ForkExec(room Room, socket int, score string, env []string, sys *syscall.SysProcAttr) (pid int, err error) {
	argv := []string{"vifproxy-confine", strconv.Itoa(os.Getpid()), score}
	null := s.null.Fd()
	files := []uintptr{null, null, null, uintptr(socket)}
	if room.procs != nil {
		argv, files = append(argv, strconv.Itoa(len(files))), append(files, room.procs.Fd())
	}
	return syscall.ForkExec(fmt.Sprintf("/proc/self/fd/%d", s.helper.Fd()), argv, &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: sys})
}
