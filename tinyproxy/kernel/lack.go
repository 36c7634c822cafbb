// Package kernel says what this machine's kernel has to confine a proxy with, and what it lacks.
//
// Concurrency: every function may be called from any goroutine.
package kernel

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Lack is something that this machine does not have to confine proxies with.
type Lack struct {
	Mechanism string // seccomp, landlock, cgroup, capabilities
	Cause     string
	Remedy    string
	InPart    bool // the mechanism is in force, but not in full
}

func (l Lack) String() string { return fmt.Sprintf("%s: %s (%s)", l.Mechanism, l.Cause, l.Remedy) }

// Lacks returns what the running kernel does not have. confine.New finds out what systemd does not give the daemon.
func Lacks() []Lack {
	_, lacks := Landlock()
	return append(Seccomp(), lacks...)
}

// Seccomp returns what the kernel lacks for our seccomp filters.
func Seccomp() []Lack {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return []Lack{{Mechanism: "seccomp", Cause: err.Error()}}
	}
	if release := unix.ByteSliceToString(name.Release[:]); !canContinueNotified(release) {
		return noFilters("Linux " + release + " is older than 5.5")
	}
	action := uint32(unix.SECCOMP_RET_USER_NOTIF)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	switch errno {
	case 0:
		return nil
	case unix.ENOSYS:
		return noFilters("the kernel was built without it (CONFIG_SECCOMP)")
	case unix.EOPNOTSUPP:
		return noFilters("the kernel does not have user notification")
	}
	return noFilters(errno.Error())
}

func noFilters(cause string) []Lack {
	return []Lack{{Mechanism: "seccomp", Cause: cause, Remedy: later()}}
}

// canContinueNotified reports whether the supervisor of a call can let it pass: SECCOMP_USER_NOTIF_FLAG_CONTINUE, since Linux
// 5.5 (seccomp(2)). Before that, vifproxy-confine would wait forever in its execve. Only a process with a pending notification
// can ask the kernel, so the version decides.
func canContinueNotified(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return false
	}
	return major > 5 || major == 5 && minor >= 5
}

// Landlock returns the version of Landlock's interface, 0 for none, and what it lacks.
func Landlock() (abi int, lacks []Lack) {
	abi, err := CreateRuleset(nil, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if err != nil {
		modules, _ := os.ReadFile("/sys/kernel/security/lsm") // without it, the order that Linux has by default
		return 0, []Lack{landlockLack(err, string(modules), qube())}
	}
	_, missing := Handled(abi)
	for _, what := range missing {
		lacks = append(lacks, Lack{"landlock", fmt.Sprintf("ABI %d does not know of %s", abi, what), later(), true})
	}
	return abi, lacks
}

// landlockLack explains an error of landlock_create_ruleset(2). ENOSYS means a kernel without Landlock. EOPNOTSUPP means a
// kernel that has Landlock built in, but not in the list of security modules to start, as Qubes' kernels until February 2026.
// EPERM comes from a seccomp filter, such as that of systemd-nspawn 252. modules are the active ones, as
// /sys/kernel/security/lsm lists them. qube is the name of this VM, if it is one of Qubes OS.
func landlockLack(err error, modules, qube string) Lack {
	switch {
	case errors.Is(err, unix.ENOSYS):
		return Lack{"landlock", "the kernel was built without it (CONFIG_SECURITY_LANDLOCK)", later(), false}
	case errors.Is(err, unix.EOPNOTSUPP):
		option := lsmOption(modules)
		remedy := "add " + option + " to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub), and restart"
		if qube != "" {
			remedy = fmt.Sprintf("in dom0: qvm-prefs %s kernelopts \"$(qvm-prefs %s kernelopts) %s\", and restart this VM",
				qube, qube, option)
		}
		return Lack{"landlock", "the kernel has it, but not switched on (it is not in lsm=)", remedy, false}
	case errors.Is(err, unix.EPERM):
		return Lack{"landlock", "a filter of system calls refuses it, as that of a container does", "have the container " +
			`permit it (systemd-nspawn: --system-call-filter="landlock_create_ruleset landlock_add_rule landlock_restrict_self")`,
			false}
	}
	return Lack{"landlock", err.Error(), later(), false}
}

// lsmOption returns the option of the kernel's command line that switches Landlock on. The option replaces the whole list
// (ordered_lsm_init in Linux' security/security.c), so it also has to name the active modules. capability is always active.
func lsmOption(modules string) string {
	on := strings.FieldsFunc(modules, func(r rune) bool { return r == ',' || r == '\n' })
	if len(on) == 0 {
		on = []string{"lockdown", "yama", "integrity", "selinux", "apparmor", "bpf"}
	}
	on = slices.DeleteFunc(on, func(name string) bool { return name == "capability" || name == "landlock" })
	return "lsm=" + strings.Join(append([]string{"landlock"}, on...), ",")
}

// later returns the remedy for a kernel that lacks something.
func later() string {
	const remedy = "use a later kernel"
	if name := qube(); name != "" {
		return fmt.Sprintf("%s; in dom0: qvm-prefs %s kernel", remedy, name)
	}
	return remedy
}

// qube returns the name of this VM in Qubes OS, which is its host name; "" if this is no VM of Qubes OS.
func qube() string {
	if _, err := os.Stat("/usr/share/qubes/marker-vm"); err != nil {
		return ""
	}
	name, err := os.Hostname()
	if err != nil {
		return "VM"
	}
	return name
}

// Handled returns all that this version of Landlock can restrict. missing is what it cannot, with the version of Linux that
// can.
func Handled(abi int) (attr unix.LandlockRulesetAttr, missing []string) {
	attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_REFER - 1 // ABI 1: all rights before that one
	for _, right := range []struct {
		abi  int
		set  *uint64
		bits uint64
		name string
	}{
		{2, &attr.Handled_access_fs, unix.LANDLOCK_ACCESS_FS_REFER, ""},
		{3, &attr.Handled_access_fs, unix.LANDLOCK_ACCESS_FS_TRUNCATE, "truncating files (Linux 6.2)"},
		{4, &attr.Handled_access_net,
			unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, "TCP ports (Linux 6.7)"},
		{5, &attr.Handled_access_fs, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, "device ioctls (Linux 6.10)"},
		{6, &attr.Scoped, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL, "signals (Linux 6.12)"},
	} {
		if abi >= right.abi {
			*right.set |= right.bits
		} else if right.name != "" {
			missing = append(missing, right.name)
		}
	}
	return attr, missing
}

// CreateRuleset is landlock_create_ruleset(2).
func CreateRuleset(attr *unix.LandlockRulesetAttr, size, flags uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), size, flags)
	if errno != 0 {
		return -1, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	return int(fd), nil
}
