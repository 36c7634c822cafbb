// Vifproxy-names is the resolver that vifproxyd runs: it answers the questions for names that proxies ask, see package names.
//
// It has no options. Descriptor 3 is a stream socket to the daemon, and descriptor 4 the bound UDP socket that questions come to. It ends
// when the daemon closes its end of descriptor 3. It opens no file: what resolv.conf(5) and hosts(5) say comes from the daemon.
//
// It runs under a list of system calls, and these are what it makes, by strace (Go 1.26, amd64):
//
//   - Go's runtime: arch_prctl, clone, close, epoll_create1, epoll_ctl, epoll_pwait, eventfd2, exit_group, fcntl, futex, getpid, gettid,
//     madvise, mmap, munmap, nanosleep, prctl, prlimit64, read, rt_sigaction, rt_sigprocmask, rt_sigreturn, sched_getaffinity, sched_yield,
//     sigaltstack, tgkill, write. openat and pread64 may fail: it looks for limits of cgroups and the size of huge pages;
//   - its descriptors: getpeername, getsockname, getsockopt, setsockopt (IP_PKTINFO), recvmmsg, sendmsg, read, write;
//   - name servers, by UDP and TCP: socket, connect, setsockopt, getsockname, getpeername, getsockopt, read, write, recvmsg, close.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"

	"vifproxy/names"
)

const (
	// threadsMax is how many goroutines run at once: a flood of questions is to leave processors to the proxies.
	threadsMax = 2
	// garbagePercent bounds the garbage in memory, in per cent of the memory in use (debug.SetGCPercent).
	garbagePercent = 50
)

func main() {
	runtime.GOMAXPROCS(min(threadsMax, runtime.NumCPU())) // it no longer looks for limits of a cgroup in files then
	debug.SetGCPercent(garbagePercent)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vifproxy-names:", err)
		os.Exit(1)
	}
}

func run() error {
	daemon, err := net.FileConn(os.NewFile(3, "the daemon"))
	if err != nil {
		return fmt.Errorf("%w (vifproxyd starts this program)", err)
	}
	socket, err := net.FilePacketConn(os.NewFile(4, "questions"))
	if err != nil {
		return fmt.Errorf("%w (vifproxyd starts this program)", err)
	}
	questions, ok := socket.(*net.UDPConn)
	if !ok {
		return fmt.Errorf("descriptor 4 is no UDP socket")
	}
	r, err := names.New(daemon, questions)
	if err != nil {
		return err
	}
	return r.Run(context.Background())
}
