package confine

import (
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowedCalls are the system calls that a proxy may make. The list comes from traces of tinyproxy 1.10.0, 1.11.0, 1.11.1, 1.11.3
// and of the development version of 2024 under the traffic of TestConfinedTraffic; from their source; and from that of the C
// library: what its resolver, malloc, threads and time do on amd64 and arm64, and what a newer C library would use instead.
//
// A call that is not on the list fails with EPERM, and the kernel logs it (audit, type 1326). It does not kill the proxy. A
// later C library may first try a call that it can do without, and killing would make that an outage. To an attacker it makes no
// difference.
var allowedCalls = []string{
	// Memory; mmap and mprotect below.
	"brk", "munmap", "mremap", "madvise",
	// Files. Landlock says which; without it, the file modes do. unlink and ftruncate are for 1.10.
	"open", "openat", "close", "close_range", "read", "readv", "pread64", "write", "writev", "lseek", "fsync",
	"stat", "fstat", "lstat", "newfstatat", "fstatat", "statx", "access", "faccessat", "faccessat2", "readlink",
	"readlinkat", "dup", "dup2", "dup3", "pipe", "pipe2", "umask", "unlink", "unlinkat", "ftruncate", "getcwd",
	// Sockets; socket, setsockopt and what sends, below.
	"bind", "connect", "listen", "accept", "accept4", "shutdown", "getsockname", "getpeername", "getsockopt",
	"recvfrom", "recvmsg", "recvmmsg", "select", "pselect6", "poll", "ppoll",
	// Threads and processes; clone below. 1.10 forks its servers, waits for them and signals them.
	"fork", "exit", "exit_group", "wait4", "waitid", "kill", "tgkill", "futex", "set_robust_list",
	"get_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity", "membarrier",
	"getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getpgrp", "arch_prctl",
	"restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigsuspend", "rt_sigpending",
	"rt_sigtimedwait", "sigaltstack", "pause", "alarm",
	// Time and the machine.
	"nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom",
	"uname", "sysinfo", "getrlimit", "getrusage",
	// Left to gateFilter. If both filters refuse a call, the one installed last decides the errno.
	"execve", "execveat", "clone3",
}

// allowedCallsIf are the calls that are permitted with certain arguments only. One of the sets must match.
func allowedCallsIf() []seccomp.NameWithConditions {
	var c conditional
	c.memory()
	// Threads and plain forks; no namespaces, and no children of the daemon, which would never wait for them. The flags of clone3 are in
	// memory, where no filter sees them.
	c.allow("clone", set{lacks(0, unix.CLONE_NEWNS|unix.CLONE_NEWCGROUP|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|
		unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_PARENT)})
	c.oneOf("socket", 0, unix.AF_UNIX, unix.AF_NETLINK) // left to gateFilter
	c.sockets()
	c.options(unix.SOL_SOCKET, unix.SO_REUSEADDR, unix.SO_KEEPALIVE, unix.SO_LINGER, unix.SO_SNDBUF, unix.SO_RCVBUF,
		unix.SO_RCVTIMEO, unix.SO_SNDTIMEO, unix.SO_RCVTIMEO_NEW, unix.SO_SNDTIMEO_NEW)
	c.options(unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER)
	c.options(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER)
	c.options(unix.IPPROTO_TCP, unix.TCP_NODELAY)
	c.oneOf("ioctl", 1, fionread, fionbio, unix.TCGETS)
	c.oneOf("fcntl", 1, unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL,
		unix.F_GETLK, unix.F_SETLK, unix.F_SETLKW)
	c.oneOf("prctl", 0, unix.PR_SET_NAME, unix.PR_SET_VMA)
	c.oneOf("prlimit64", 0, 0) // its own
	return c
}

// A conditional is calls that are permitted with certain arguments only.
type conditional []seccomp.NameWithConditions

type set = seccomp.ArgumentConditions

func is(argument uint32, value uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: seccomp.Equal, Value: value}
}

func lacks(argument uint32, bits uint64) seccomp.Condition {
	return seccomp.Condition{Argument: argument, Operation: seccomp.BitsNotSet, Value: bits}
}

// allow permits a call if one of the sets matches.
func (c *conditional) allow(name string, sets ...set) {
	for _, s := range sets {
		*c = append(*c, seccomp.NameWithConditions{Name: name, Conditions: s})
	}
}

// oneOf permits a call if an argument has one of the values.
func (c *conditional) oneOf(name string, argument uint32, values ...uint64) {
	for _, v := range values {
		c.allow(name, set{is(argument, v)})
	}
}

// options permits to set options of sockets at a level.
func (c *conditional) options(level uint64, options ...uint64) {
	for _, option := range options {
		c.allow("setsockopt", set{is(1, level), is(2, option)})
	}
}

// memory permits memory of which nothing that was ever writable becomes executable.
func (c *conditional) memory() {
	c.allow("mmap", set{lacks(2, unix.PROT_EXEC)}, set{lacks(2, unix.PROT_WRITE)})
	c.allow("mprotect", set{lacks(2, unix.PROT_EXEC)})
}

// sockets permits TCP and UDP; no MPTCP or SCTP, whose ports Landlock does not look at, and nothing raw.
func (c *conditional) sockets() {
	for _, family := range []uint64{unix.AF_INET, unix.AF_INET6} {
		for kind, protocol := range map[uint64]uint64{
			unix.SOCK_STREAM: unix.IPPROTO_TCP, unix.SOCK_DGRAM: unix.IPPROTO_UDP,
		} {
			const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
			other := lacks(1, 0xffffffff&^(kind|flags))
			c.allow("socket", set{is(0, family), other, is(2, 0)}, set{is(0, family), other, is(2, protocol)})
		}
	}
	// TCP fast open connects without a connect(2) that Landlock would look at.
	c.allow("sendto", set{lacks(3, unix.MSG_FASTOPEN)})
	c.allow("sendmsg", set{lacks(2, unix.MSG_FASTOPEN)})
	c.allow("sendmmsg", set{lacks(3, unix.MSG_FASTOPEN)})
}

// Of asm-generic/ioctls.h, the same on both machines.
const (
	fionread = 0x541b
	fionbio  = 0x5421
)

// callFilter permits what is on the list, which has names of calls and of those with conditions. denied is the action for the rest.
func callFilter(machine *arch.Info, denied seccomp.Action, calls []string, callsIf []seccomp.NameWithConditions, most string) ([]byte, error) {
	// The call that is made most comes first, because conditions on arguments are checked one after the other: tinyproxy sends a page
	// by one for every two thousand bytes.
	var often, others []seccomp.NameWithConditions
	for _, c := range onThisMachineIf(machine, callsIf) {
		if c.Name == most {
			often = append(often, c)
		} else {
			others = append(others, c)
		}
	}
	return assemble(seccomp.Policy{DefaultAction: denied, Syscalls: []seccomp.SyscallGroup{
		{Action: seccomp.ActionAllow, NamesWithCondtions: often},
		{Action: seccomp.ActionAllow, Names: onThisMachine(machine, calls...), NamesWithCondtions: others},
	}})
}

// gateFilter is for calls that need their own answer and should not be reported: execve, which vifproxy-confine lets pass
// once, and calls that the C library tries in normal operation and can do without.
func gateFilter() ([]byte, error) {
	fails := func(errno unix.Errno) seccomp.Action { return seccomp.ActionErrno | seccomp.Action(errno) }
	family := func(f uint64) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: "socket",
			Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: f}}}
	}
	return assemble(seccomp.Policy{DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
		{Action: seccomp.ActionUserNotify, Names: []string{"execve", "execveat"}},
		{Action: fails(unix.ENOSYS), Names: []string{"clone3"}}, // then it uses clone
		// nscd, and the machine's addresses (getaddrinfo(3) sorts by them): the C library then does without.
		{Action: fails(unix.EAFNOSUPPORT),
			NamesWithCondtions: []seccomp.NameWithConditions{family(unix.AF_UNIX), family(unix.AF_NETLINK)}},
	}})
}

// onThisMachine leaves out the calls that a machine does not have: arm64 has openat, but no open.
func onThisMachine(machine *arch.Info, names ...string) (there []string) {
	for _, name := range names {
		if _, ok := machine.SyscallNames[name]; ok {
			there = append(there, name)
		}
	}
	return there
}

func onThisMachineIf(machine *arch.Info, all []seccomp.NameWithConditions) (there []seccomp.NameWithConditions) {
	for _, c := range all {
		if len(onThisMachine(machine, c.Name)) > 0 {
			there = append(there, c)
		}
	}
	return there
}

// assemble returns the machine code of a policy, as an array of struct sock_filter. The library puts the check of the
// architecture before it, and the refusal of x32.
func assemble(policy seccomp.Policy) ([]byte, error) {
	instructions, err := policy.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	var code []byte
	for _, i := range raw {
		code = native.AppendUint16(code, i.Op)
		code = append(code, i.Jt, i.Jf)
		code = native.AppendUint32(code, i.K)
	}
	return code, nil
}
