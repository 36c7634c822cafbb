// Vifproxy-confine is what vifproxyd executes in a proxy's place: it locks itself in and becomes tinyproxy.
//
//	vifproxy-confine GROUP RULESET ONCE ALLOWED LIMITS SLACK PROGRAM ARGUMENT...
//
// GROUP is the descriptor of a cgroup.procs, RULESET that of a Landlock ruleset, ONCE and ALLOWED are
// descriptors of files with seccomp filters; -1 stands for one that this machine does not know. LIMITS are
// resource limits, "7:464,6:400"; SLACK is the timer slack in nanoseconds.
//
// Everything is prepared in package confine, by the daemon; here it is only put into force, after the change
// of user, with no privilege but those of that user. A program of its own, because starting one costs what
// all its packages cost: this is 1.3 ms, and vifproxyd executing itself would be 2.8. For the same reason it
// imports next to nothing.
package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// Exit statuses; package tinyproxy makes errors of them.
const (
	cannotConfine = 126
	cannotExecute = 127
)

// Of include/uapi/linux/{prctl,seccomp,landlock}.h; package unix has them all, and costs a tenth of the start.
const (
	prSetNoNewPrivs   = 38
	prSetTimerSlack   = 29
	setModeFilter     = 1
	filterLog         = 2
	filterNewListener = 8
	notifyReceive     = 0xc0502100
	notifySend        = 0xc0182101
	notifyContinue    = 1
	restrictSelf      = 446
)

// The filters are for this thread, and so is the program that it becomes: execve(2) ends all others.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) < 8 {
		fail(cannotConfine, "arguments: this program is vifproxyd's", syscall.EINVAL)
	}
	fds, limits, argv := os.Args[1:5], os.Args[5], os.Args[7:]
	path := cString(argv[0])
	pointers := make([]*byte, len(argv)+1)
	for i, a := range argv {
		pointers[i] = cString(a)
	}
	environment := os.Environ()
	variables := make([]*byte, len(environment)+1)
	for i, e := range environment {
		variables[i] = cString(e)
	}
	once, allowed := filter(fds[2]), filter(fds[3])

	check("no_new_privs", call(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0))
	if fd := number(fds[0]); fd >= 0 {
		// Who may move processes is looked at when the file is opened, and it was vifproxyd that did.
		_, err := syscall.Write(fd, []byte("0"))
		errno, _ := err.(syscall.Errno)
		check("cgroup", errno)
		syscall.Close(fd)
	}
	if fd := number(fds[1]); fd >= 0 {
		check("Landlock", call(restrictSelf, uintptr(fd), 0, 0))
		syscall.Close(fd)
	}
	for limit := range strings.SplitSeq(limits, ",") {
		resource, value, _ := strings.Cut(limit, ":")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			fail(cannotConfine, "limit "+limit, syscall.EINVAL)
		}
		// Not syscall.Setrlimit: the runtime has opinions on RLIMIT_NOFILE.
		both := [2]uint64{n, n}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, uintptr(number(resource)),
			uintptr(unsafe.Pointer(&both)), 0, 0, 0)
		check("limit "+limit, errno)
	}
	slack := uintptr(number(os.Args[6]))
	if once != nil {
		letOneThrough(once)
	}
	check("timer slack", call(syscall.SYS_PRCTL, prSetTimerSlack, slack, 0)) // of this thread, and of the program
	if allowed != nil {
		_, errno := install(allowed, filterLog)
		check("seccomp", errno)
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(path)),
		uintptr(unsafe.Pointer(&pointers[0])), uintptr(unsafe.Pointer(&variables[0])))
	fail(cannotExecute, "execute "+argv[0], errno)
}

// letOneThrough installs a filter that refers execve to a supervisor, and is that supervisor, on another
// thread. The execve that follows ends that thread and closes its descriptor, and whoever calls execve after
// that finds no supervisor: ENOSYS (seccomp_do_user_notification in kernel/seccomp.c). Thus a filter that
// permits this one execve permits no other.
func letOneThrough(program *sockFprog) {
	// Neither thread lets go of its P while it waits for the other.
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	listener := make(chan uintptr)
	ready := make(chan bool)
	go func() {
		runtime.LockOSThread()
		ready <- true
		supervise(<-listener)
	}()
	<-ready // its thread is there, made without a filter
	fd, errno := install(program, filterNewListener)
	check("seccomp", errno)
	listener <- fd
}

func supervise(fd uintptr) {
	for { // a signal of the Go runtime interrupts either call, and then execve asks again
		var question [10]uint64 // struct seccomp_notif: id, pid and flags, struct seccomp_data
		if call(syscall.SYS_IOCTL, fd, notifyReceive, uintptr(unsafe.Pointer(&question))) != 0 {
			continue
		}
		// struct seccomp_notif_resp: id, val, error (32 bits), flags (32 bits)
		answer := struct {
			id    uint64
			val   int64
			err   int32
			flags uint32
		}{id: question[0], flags: notifyContinue}
		call(syscall.SYS_IOCTL, fd, notifySend, uintptr(unsafe.Pointer(&answer)))
	}
}

// sockFprog is struct sock_fprog.
type sockFprog struct {
	length uint16
	code   *byte
}

// filter reads a program of 8 byte instructions from a descriptor, which may be shared with other starts.
func filter(arg string) *sockFprog {
	fd := number(arg)
	if fd < 0 {
		return nil
	}
	code := make([]byte, 1<<15)
	n, err := syscall.Pread(fd, code, 0)
	if err != nil || n == 0 || n%8 != 0 {
		fail(cannotConfine, "read a filter", syscall.EIO)
	}
	syscall.Close(fd)
	return &sockFprog{uint16(n / 8), &code[0]}
}

func install(program *sockFprog, flags uintptr) (uintptr, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall(sysSeccomp, setModeFilter, flags, uintptr(unsafe.Pointer(program)))
	return fd, errno
}

func call(number, a, b, c uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(number, a, b, c, 0, 0, 0)
	return errno
}

func check(what string, errno syscall.Errno) {
	if errno != 0 {
		fail(cannotConfine, what, errno)
	}
}

// fail reports to the daemon, which reads our output, and ends without a proxy.
func fail(status int, what string, errno syscall.Errno) {
	line := "vifproxy-confine: errno " + strconv.Itoa(int(errno)) + ": " + what + ": " + errno.Error() + "\n"
	syscall.Write(2, []byte(line))
	os.Exit(status)
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		fail(cannotConfine, "argument "+s, syscall.EINVAL)
	}
	return n
}

func cString(s string) *byte {
	p, err := syscall.BytePtrFromString(s)
	if err != nil {
		fail(cannotConfine, "argument", syscall.EINVAL)
	}
	return p
}
