// Package leftover ends proxies that an earlier run of the daemon has left, and reads of processes what that takes.
package leftover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

// Kill ends all processes with a uid of ours, of this firewall VM. It returns how many it killed, once they are gone. If ctx ends
// first, the error names a process that still runs.
//
// Pdeathsig has killed the proxies themselves, but not their children: fork(2) clears the parent-death signal, so the prefork
// children of 1.10 have none.
func Kill(ctx context.Context) (killed int, err error) {
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return killed, fmt.Errorf("look for leftover proxies: %w", err)
		}
		before := killed
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			did, err := kill(ctx, pid)
			if err != nil {
				return killed, fmt.Errorf("kill leftover proxy, pid %d: %w", pid, err)
			}
			if did {
				killed++
			}
		}
		if killed == before { // otherwise look again: one may have forked before it died
			return killed, nil
		}
	}
}

// kill kills the process if it is a leftover, and waits until it is dead. The number may be given to another process at any
// time, so kill checks and kills the process behind a pidfd.
func kill(ctx context.Context, pid int) (bool, error) {
	if !isLeftover(pid) {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, nil // gone
	}
	if err != nil {
		return false, os.NewSyscallError("pidfd_open", err)
	}
	_ = unix.SetNonblock(fd, true)
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	// If pid still names a leftover, that is the process behind the pidfd, or that process is dead.
	if IsDead(fd) || !isLeftover(pid) {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, os.NewSyscallError("pidfd_send_signal", err)
	}
	return true, AwaitDeath(ctx, pidfd)
}

// isLeftover reports whether the process has a uid of ours and belongs to this firewall VM. In tests, several firewall VMs
// share a machine as network namespaces. A process that hides in a namespace of its own needs a user namespace for that.
func isLeftover(pid int) bool {
	found := false
	for _, id := range strings.Fields(StatusField(pid, "Uid:")) { // real, effective, saved, file system
		n, err := strconv.ParseUint(id, 10, 32)
		found = found || err == nil && tinyproxy.IsProxyUID(uint32(n))
	}
	return found && (!InOtherNetwork(pid) || otherUserNamespace(pid))
}

// StatusField returns what /proc/PID/status has after name; "" if the process is gone.
func StatusField(pid int, name string) string {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// InOtherNetwork reports whether the process is known to be in another network namespace. Its ns/net is for tracers only, but
// the kernel keeps separate files for each network (proc_net_ns_init in Linux' fs/proc/proc_net.c).
func InOtherNetwork(pid int) bool {
	own, err := os.Stat("/proc/thread-self/net/dev")
	if err != nil {
		return false
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/net/dev", pid))
	return err == nil && !os.SameFile(own, its)
}

// otherUserNamespace reports whether the process is known to be in another user namespace. A process that makes one can map at
// most one user into it.
func otherUserNamespace(pid int) bool {
	own, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	its, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", pid))
	return err == nil && !bytes.Equal(own, its)
}

// IsDead reports whether the process behind a pidfd has ended, with all its threads.
func IsDead(pidfd int) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
	return err == nil && n > 0
}

// AwaitDeath waits in Go's poller until the process behind a nonblocking pidfd has ended.
func AwaitDeath(ctx context.Context, pidfd *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	err = conn.Read(func(fd uintptr) bool { return IsDead(int(fd)) })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
