package confine

import (
	"os"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/kernel"
)

// nameServerPort is the only port that the resolver connects to by TCP. Landlock does not look at UDP; the fence does.
const nameServerPort = 53

// nameCalls are the system calls that the resolver may make: those of a program of Go 1.26 that reads and writes sockets. The list
// comes from traces of vifproxy-names on amd64, and from the source of Go's packages runtime, internal/poll and net. There is no
// listen and no accept, and nothing that opens a file but openat, which Landlock refuses.
var nameCalls = []string{
	// Memory; mmap and mprotect below. The runtime looks for the size of huge pages and for the limits of its cgroup at its start.
	"brk", "munmap", "madvise", "mincore", "open", "openat", "close", "read", "readv", "pread64", "write", "writev", "lseek",
	"fstat", "newfstatat", "fstatat", "readlinkat",
	// Sockets. Package net looks by bind at its start whether there is IPv6.
	"bind", "connect", "shutdown", "getsockname", "getpeername", "getsockopt", "recvfrom", "recvmsg", "recvmmsg",
	"epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "eventfd2", "pipe", "pipe2", "poll", "ppoll",
	// Threads.
	"exit", "exit_group", "tgkill", "futex", "rseq", "set_robust_list", "set_tid_address", "sched_yield", "sched_getaffinity",
	"getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "arch_prctl", "restart_syscall",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
	// Time and the machine.
	"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "time", "getrandom", "uname", "getrlimit", "getrusage",
	// Left to gateFilter. If both filters refuse a call, the one installed last decides the errno.
	"execve", "execveat", "clone3",
}

// nameCallsIf are those that are permitted with certain arguments only.
func nameCallsIf() []seccomp.NameWithConditions {
	var c conditional
	c.memory()
	c.allow("clone", set{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}}) // threads, and no processes
	c.sockets()
	c.options(unix.SOL_SOCKET, unix.SO_REUSEADDR, unix.SO_KEEPALIVE, unix.SO_BROADCAST, unix.SO_LINGER, unix.SO_SNDBUF, unix.SO_RCVBUF)
	c.options(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_RECVERR, unix.IP_MTU_DISCOVER)
	c.options(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER)
	c.options(unix.IPPROTO_TCP, unix.TCP_NODELAY, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT)
	c.oneOf("fcntl", 1, unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL)
	c.oneOf("prctl", 0, unix.PR_SET_NAME, unix.PR_SET_VMA)
	c.oneOf("prlimit64", 0, 0) // its own
	return c
}

// PrepareNames makes what a start of the resolver needs. program is vifproxy-names, opened when the daemon started: a file that an
// upgrade puts in its place is another one. The caller keeps it open until the resolver runs.
func (s *Sandbox) PrepareNames(program *os.File) (c *Cell, err error) {
	n := s.ceilings.Names()
	c = &Cell{sandbox: s, limits: s.ceilings.Rlimits(n, false), ruleset: -1, calls: s.nameFilter, program: program, needs: n,
		weight: namesWeight}
	if s.abi > 0 {
		if c.ruleset, err = s.namesRuleset(program); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Memory returns how many bytes the processes of the cell may use together.
func (c *Cell) Memory() uint64 { return c.needs.Memory }

// namesRuleset makes the Landlock rules of the resolver: its own program, and the port of name servers.
func (s *Sandbox) namesRuleset(program *os.File) (_ int, err error) {
	attr, _ := kernel.Handled(s.abi)
	fd, err := kernel.CreateRuleset(&attr, unsafe.Sizeof(attr), 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	file := unix.LandlockPathBeneathAttr{Allowed_access: executable & attr.Handled_access_fs, Parent_fd: int32(program.Fd())}
	if err := addRule(fd, unix.LANDLOCK_RULE_PATH_BENEATH, unsafe.Pointer(&file)); err != nil {
		return -1, err
	}
	if attr.Handled_access_net != 0 {
		if err := addPort(fd, unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, nameServerPort); err != nil {
			return -1, err
		}
	}
	return fd, nil
}
