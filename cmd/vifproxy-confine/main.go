// Vifproxy-confine is what vifproxyd executes in the place of a proxy, or of the resolver: it locks itself in and becomes tinyproxy, or
// vifproxy-names.
//
//	vifproxy-confine PARENT SCORE [GROUP]
//
// The daemon prepares everything (package confine) and starts this program in advance, with the privileges that it takes to
// give privileges up. It takes SCORE as its oom_score_adj, enters the cgroup whose cgroup.procs is descriptor GROUP, and waits. The handover.Message comes through
// descriptor 3, and is only put into force here.
//
// It is a program of its own because starting one costs what all its packages cost: this one takes 1.3 ms, and vifproxyd
// executing itself would take 2.8. It starts in advance because 1.3 ms is a third of a confined start. It imports next to
// nothing for the same reason.
package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"unsafe"

	"vifproxy/tinyproxy/confine/handover"
)

// From include/uapi/linux/{prctl,capability,seccomp,landlock,fcntl}.h. Package unix has them all, but importing it costs a tenth of
// the start.
const (
	prSetPdeathsig    = 1
	prCapbsetDrop     = 24
	prSetTimerSlack   = 29
	prSetNoNewPrivs   = 38
	capVersion3       = 0x20080522
	setModeFilter     = 1
	filterLog         = 2
	filterNewListener = 8
	notifyReceive     = 0xc0502100
	notifySend        = 0xc0182101
	notifyContinue    = 1
	restrictSelf      = 446
	atFdcwd           = -100
	atEmptyPath       = 0x1000
)

// Privileges and filters belong to this thread, and to the program that it becomes. execve(2) ends all other threads, with
// what they still had.
func init() { runtime.LockOSThread() }

func main() {
	parent, score, group, ok := arguments(os.Args)
	if !ok {
		fail(handover.CannotConfine, "arguments: this program is vifproxyd's", syscall.EINVAL)
	}
	volunteer(score)
	var entered syscall.Errno
	if group >= 0 {
		entered = enter(group) // reported when there is somebody to report to
	}
	admit := admitExec()
	m, ok := receive(3)
	if !ok {
		return // the daemon does not need us any more
	}
	// Everything that allocates memory comes first.
	path := cString(m.Argv[0])
	pointers := make([]*byte, len(m.Argv)+1)
	for i, a := range m.Argv {
		pointers[i] = cString(a)
	}
	environment := os.Environ()
	variables := make([]*byte, len(environment)+1)
	for i, e := range environment {
		variables[i] = cString(e)
	}
	gate, calls := filter(m.Gate), filter(m.Calls)

	must("cgroup", entered)
	becomeUser(uintptr(m.UID))
	// A change of the user clears the signal (commit_creds in the kernel's kernel/cred.c).
	must("parent-death signal", rawSyscall(syscall.SYS_PRCTL, prSetPdeathsig, uintptr(syscall.SIGKILL), 0))
	if os.Getppid() != parent {
		return
	}
	must("no_new_privs", rawSyscall(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0))
	if m.Ruleset >= 0 {
		must("Landlock", rawSyscall(restrictSelf, uintptr(m.Ruleset), 0, 0))
	}
	if gate != nil {
		fd, errno := install(gate, filterNewListener)
		must("seccomp", errno)
		admit <- fd
		for !supervised.Load() { // to wait for it in another way would take the scheduler, and maybe another thread
			rawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	// Limits come when the Go runtime has made all its threads. RLIMIT_NPROC is the whole process's, and its other threads have the
	// daemon's uid, which may have more threads than a proxy with a small MaxClients: one more would be refused, and the runtime gives up.
	for limit := range strings.SplitSeq(m.Limits, ",") {
		resource, value, _ := strings.Cut(limit, ":")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			fail(handover.CannotConfine, "limit "+limit, syscall.EINVAL)
		}
		// Not syscall.Setrlimit, because the Go runtime handles RLIMIT_NOFILE in its own way.
		both := [2]uint64{n, n}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(mustInt(resource)),
			uintptr(unsafe.Pointer(&both)), 0, 0, 0)
		must("limit "+limit, errno)
	}
	must("timer slack", rawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, uintptr(m.Slack), 0)) // of this thread, and of the program
	if calls != nil {
		_, errno := install(calls, filterLog)
		must("seccomp", errno)
	}
	at, flags := atFdcwd, uintptr(0)
	if m.Program >= 0 {
		at, flags = m.Program, atEmptyPath
		*path = 0
	}
	_, _, errno := syscall.RawSyscall6(sysExecveat, uintptr(at), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&pointers[0])),
		uintptr(unsafe.Pointer(&variables[0])), flags, 0)
	fail(handover.CannotExecute, "execute "+m.Argv[0], errno)
}

// arguments returns the parent's process id, the score, and the descriptor of the group's cgroup.procs, which is -1 if there is none.
func arguments(args []string) (parent int, score string, group int, ok bool) {
	if len(args) != 3 && len(args) != 4 {
		return 0, "", 0, false
	}
	parent, err := strconv.Atoi(args[1])
	group = -1
	if len(args) == 4 && err == nil {
		group, err = strconv.Atoi(args[3])
	}
	return parent, args[2], group, err == nil
}

// enter moves this process to a cgroup. The kernel checks the right to do so when the file is opened, and vifproxyd opened it.
func enter(procs int) syscall.Errno {
	_, err := syscall.Write(procs, []byte("0"))
	syscall.Close(procs)
	errno, _ := err.(syscall.Errno)
	return errno
}

// volunteer makes the kernel end this process, or the program that it becomes, before others if there is no memory. Raising the score
// takes no privilege. An AppVM that owns a tinyproxy could lower the score again to the daemon's if Landlock did not forbid it to write
// files.
func volunteer(score string) {
	const path = "/proc/self/oom_score_adj"
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err == nil {
		_, err = syscall.Write(fd, []byte(score))
		syscall.Close(fd)
	}
	if err != nil {
		errno, _ := err.(syscall.Errno)
		fail(handover.CannotConfine, path, errno)
	}
}

// becomeUser gives up what this thread has: capabilities of all sets, groups, ids. It makes system calls, because the
// functions of package syscall are for all threads, and other threads may no longer answer.
func becomeUser(id uintptr) {
	for c := uintptr(0); ; c++ {
		if errno := rawSyscall(syscall.SYS_PRCTL, prCapbsetDrop, c, 0); errno == syscall.EPERM {
			break // vifproxyd reports that it cannot
		} else if errno == syscall.EINVAL {
			break // that was the last one
		} else {
			must("bounding set", errno)
		}
	}
	must("groups", rawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0))
	must("gid", rawSyscall(syscall.SYS_SETGID, id, 0, 0)) // with the capability, the saved ones too
	must("uid", rawSyscall(syscall.SYS_SETUID, id, 0, 0))
	// If vifproxyd is not root, capabilities outlive the change of user. None permitted, none ambient.
	header := [2]uint32{capVersion3, 0}
	var none [6]uint32
	must("capabilities", rawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0))
}

// supervised says that the thread of admitExec waits for a question.
var supervised atomic.Bool

// admitExec answers the first question of a filter, whose descriptor it gets, on a thread of its own. The execve that it lets
// pass ends that thread and closes the descriptor. Any later execve finds no supervisor: ENOSYS (seccomp_do_user_notification
// in kernel/seccomp.c). So a filter that permits this one execve permits no other.
func admitExec() chan<- uintptr {
	// Neither thread gives up its P while it waits for the other. Setting the number also ends its updates (sysmonUpdateGOMAXPROCS in
	// runtime/proc.go): for one the runtime would stop the world, and wait forever for the thread of admitExec, which is in a system call.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	listener := make(chan uintptr)
	ready := make(chan bool)
	go func() {
		runtime.LockOSThread()
		ready <- true
		fd := <-listener
		supervised.Store(true) // no thread has to be made for that any more
		supervise(fd)
	}()
	<-ready // its thread exists, made without a filter
	return listener
}

func supervise(fd uintptr) {
	for { // a signal of the Go runtime interrupts either call, and then execve asks again
		var question [10]uint64 // struct seccomp_notif: id, pid and flags, struct seccomp_data
		if rawSyscall(syscall.SYS_IOCTL, fd, notifyReceive, uintptr(unsafe.Pointer(&question))) != 0 {
			continue
		}
		// struct seccomp_notif_resp: id, val, error (32 bits), flags (32 bits)
		answer := struct {
			id    uint64
			val   int64
			err   int32
			flags uint32
		}{id: question[0], flags: notifyContinue}
		rawSyscall(syscall.SYS_IOCTL, fd, notifySend, uintptr(unsafe.Pointer(&answer)))
	}
}

// A sockFprog is struct sock_fprog.
type sockFprog struct {
	length uint16
	code   *byte
}

// filter reads a program of 8-byte instructions from a descriptor, which other starts may share.
func filter(fd int) *sockFprog {
	if fd < 0 {
		return nil
	}
	code := make([]byte, 1<<15)
	n, err := syscall.Pread(fd, code, 0)
	if err != nil || n == 0 || n%8 != 0 {
		fail(handover.CannotConfine, "read a filter", syscall.EIO)
	}
	return &sockFprog{uint16(n / 8), &code[0]}
}

func install(program *sockFprog, flags uintptr) (uintptr, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall(sysSeccomp, setModeFilter, flags, uintptr(unsafe.Pointer(program)))
	return fd, errno
}

func rawSyscall(number, a, b, c uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(number, a, b, c, 0, 0, 0)
	return errno
}

func must(what string, errno syscall.Errno) {
	if errno != 0 {
		fail(handover.CannotConfine, what, errno)
	}
}

// fail reports to the daemon, which reads our output, and exits.
func fail(status int, what string, errno syscall.Errno) {
	syscall.Write(2, []byte(handover.Failure(errno, what)+"\n"))
	os.Exit(status)
}

func mustInt(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fail(handover.CannotConfine, "argument "+s, syscall.EINVAL)
	}
	return n
}

func cString(s string) *byte {
	p, err := syscall.BytePtrFromString(s)
	if err != nil {
		fail(handover.CannotConfine, "argument", syscall.EINVAL)
	}
	return p
}
