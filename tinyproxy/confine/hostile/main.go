// Hostile plays a tinyproxy that its AppVM owns, for the tests of confinement and fence: it listens as a tinyproxy does, tries
// what such an AppVM would try, prints how each attempt ended, and ends with the words of a tinyproxy that refuses its rules.
// It is told its targets by the lines of the file "rules" beside the configuration that it is given, as a tinyproxy is. They look
// like host names, as all lines do: ^NAME-VALUE$, with the value in hexadecimal digits.
//
// It keeps away from packages net and os, whose files would have the runtime poll.
package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	config := os.Args[len(os.Args)-1]
	t := targets{"Own": filepath.Dir(config)}
	t.read(filepath.Join(t["Own"], "rules"), target)
	t.read(config, setting)
	if t["Secret"] == "" {
		unix.Write(1, []byte("no targets\n"))
		unix.Exit(1)
	}
	if err := t.listen(); err != nil {
		unix.Write(1, []byte("listen: "+err.Error()+"\n"))
		unix.Exit(1)
	}
	for _, a := range attempts {
		result := "done"
		if err := a.try(t); err != nil {
			result = err.Error()
		}
		unix.Write(1, []byte("attempt\t"+a.name+"\t"+result+"\n"))
	}
	unix.Write(1, []byte("Bad regex in "+t["Own"]+"/rules: line 1 - "+refusal+"\n"))
	unix.Exit(65) // of a tinyproxy that refuses its rules
}

// refusal is in the dying words.
const refusal = "^words-of-an-owned-proxy$"

// targets are what the hostile program is told to attack:
//
//	Secret      a file like /rw/config: readable by everybody, were it not for Landlock
//	OtherRules  of another VM's proxy
//	Writable    a directory where everybody may write
//	Unix        a socket where everybody may connect, as a careless daemon's
//	Abstract    an abstract one
//	Control     the daemon's own
//	SameUser    a process of the same user: another generation
//	OtherProxy  a process
//	Daemon      the process that started us
//	Gateway, OtherGateway, AppVM, LAN, World  addresses; somebody listens there at port 80, and at 22 in the world
//	Barred      another one in the world, behind an interface by which AppVMs may not leave
//
// and what it sees itself:
//
//	Own         the directory with its configuration
//	Listen, Port  where it is to listen
//	Socket      the descriptor by which it does
type targets map[string]string

func (t targets) number(name string) int {
	pid, _ := strconv.Atoi(t[name])
	return pid
}

// read adds what the lines of a file say.
func (t targets) read(path string, parse func(line string) (name, value string)) {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	b := make([]byte, 1<<14)
	n, _ := unix.Read(fd, b)
	for line := range strings.Lines(string(b[:max(n, 0)])) {
		if name, value := parse(strings.TrimSpace(line)); name != "" {
			t[name] = value
		}
	}
}

// target reads a line of the rules.
func target(line string) (name, value string) {
	name, digits, _ := strings.Cut(strings.Trim(line, "^$"), "-")
	b, err := hex.DecodeString(digits)
	if err != nil {
		return "", ""
	}
	return name, string(b)
}

// setting reads a line of the configuration.
func setting(line string) (name, value string) {
	name, value, _ = strings.Cut(line, " ")
	if name != "Port" && name != "Listen" {
		return "", ""
	}
	return name, strings.TrimSpace(value)
}

// listen listens where a tinyproxy would.
func (t targets) listen() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	t["Socket"] = strconv.Itoa(fd)
	if err := t.bindOwn(fd); err != nil {
		return err
	}
	return unix.Listen(fd, 16)
}

// bindOwn binds a socket to where it listens.
func (t targets) bindOwn(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	port, _ := strconv.Atoi(t["Port"])
	return unix.Bind(fd, at(t["Listen"], port))
}

// attempt is one row of the table.
type attempt struct {
	name string
	try  func(targets) error
}

func openFor(flags int, path string) error {
	fd, err := unix.Open(path, flags, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func newSocket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func raw(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// dial connects to an address of the unix family.
func dial(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// withTCP does something to a TCP socket.
func withTCP(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

func at(addr string, port int) *unix.SockaddrInet4 {
	a, _ := netip.ParseAddr(addr)
	return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
}

func connect(addr string, port int) error {
	return withTCP(func(fd int) error { return unix.Connect(fd, at(addr, port)) })
}

func send(addr string, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte("x"), 0, at(addr, port))
}

// attempts are made in this order: those that use the process up come last.
var attempts = []attempt{
	{"read a file of the firewall VM", func(t targets) error { return openFor(unix.O_RDONLY, t["Secret"]) }},
	{"read the root directory", func(targets) error { return openFor(unix.O_RDONLY|unix.O_DIRECTORY, "/root/..") }},
	{"read /proc/1/cmdline", func(targets) error { return openFor(unix.O_RDONLY, "/proc/1/cmdline") }},
	{"read another VM's rules", func(t targets) error { return openFor(unix.O_RDONLY, t["OtherRules"]) }},
	{"write a new file", func(t targets) error {
		return openFor(unix.O_WRONLY|unix.O_CREAT, filepath.Join(t["Writable"], "new"))
	}},
	{"write to its own rules", func(t targets) error { return openFor(unix.O_WRONLY, filepath.Join(t["Own"], "rules")) }},
	{"make a file beside them", func(t targets) error {
		return openFor(unix.O_WRONLY|unix.O_CREAT, filepath.Join(t["Own"], "more"))
	}},
	{"put another file in their place", func(t targets) error {
		rules := filepath.Join(t["Own"], "rules")
		err := unix.Rename(rules, rules+".old")
		if err == nil {
			err = unix.Rename(rules+".old", rules)
		}
		return err
	}},
	{"write to a device", func(targets) error { return openFor(unix.O_WRONLY, "/dev/null") }},
	{"make a directory", func(t targets) error { return unix.Mkdir(filepath.Join(t["Writable"], "dir"), 0o700) }},
	{"link a file", func(t targets) error { return unix.Link(t["Secret"], filepath.Join(t["Writable"], "link")) }},
	{"make a file in memory", func(targets) error {
		fd, err := unix.MemfdCreate("x", 0)
		unix.Close(fd)
		return err
	}},
	{"connect to a unix socket", func(t targets) error { return dial(t["Unix"]) }},
	{"connect to an abstract socket", func(t targets) error { return dial(t["Abstract"]) }},
	{"connect to the control socket", func(t targets) error { return dial(t["Control"]) }},
	{"read /etc/shadow", func(targets) error { return openFor(unix.O_RDONLY, "/etc/shadow") }},
	{"signal the daemon", func(t targets) error { return unix.Kill(t.number("Daemon"), 0) }},
	{"signal another proxy", func(t targets) error { return unix.Kill(t.number("OtherProxy"), 0) }},
	{"have other processes ended for lack of memory", func(targets) error {
		const path = "/proc/self/oom_score_adj"
		fd, err := unix.Open(path, unix.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("0"))
		return err
	}},
	{"mount", func(t targets) error {
		err := unix.Mount("x", t["Writable"], "tmpfs", 0, "")
		if err == nil {
			unix.Unmount(t["Writable"], unix.MNT_DETACH)
		}
		return err
	}},
	{"use bpf", func(targets) error {
		attr := [16]uint32{1, 4, 4, 1} // an array of one element
		return raw(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"use userfaultfd", func(targets) error { return raw(unix.SYS_USERFAULTFD, 0) }},
	{"signal a process of the same user", func(t targets) error { return unix.Kill(t.number("SameUser"), 0) }},
	{"trace a process of the same user", func(t targets) error {
		err := raw(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.number("SameUser")))
		raw(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(t.number("SameUser"))) //nolint:errcheck // it may be running
		return err
	}},
	{"read the memory of such a process", func(t targets) error {
		return openFor(unix.O_RDONLY, fmt.Sprintf("/proc/%d/mem", t.number("SameUser")))
	}},
	{"open a netlink socket", func(targets) error {
		return newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	}},
	{"open an MPTCP socket", func(targets) error {
		return newSocket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	}},
	{"open a raw socket", func(targets) error { return newSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP) }},
	{"open a packet socket", func(targets) error { return newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
	{"bind another port", func(targets) error {
		return withTCP(func(fd int) error { return unix.Bind(fd, at("127.0.0.1", 61099)) })
	}},
	{"bind another port of the gateway", func(t targets) error {
		return withTCP(func(fd int) error { return unix.Bind(fd, at(t["Gateway"], 61098)) })
	}},
	{"bind another port of IPv6", func(targets) error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Bind(fd, &unix.SockaddrInet6{Port: 61097})
	}},
	{"connect to loopback", func(targets) error { return connect("127.0.0.1", 80) }},
	{"connect to the gateway", func(t targets) error { return connect(t["Gateway"], 80) }},
	{"connect to another AppVM's gateway", func(t targets) error { return connect(t["OtherGateway"], 80) }},
	{"connect to an address that is none", func(targets) error { return connect("0.0.0.0", 80) }},
	{"connect to another AppVM", func(t targets) error { return connect(t["AppVM"], 80) }},
	{"send UDP to another AppVM", func(t targets) error { return send(t["AppVM"], 53) }},
	{"ask a name server of its own choice", func(t targets) error { return send(t["World"], 53) }},
	{"send UDP to port 443", func(t targets) error { return send(t["World"], 443) }},
	{"connect by an interface that is barred", func(t targets) error { return connect(t["Barred"], 80) }},
	{"connect to the LAN", func(t targets) error { return connect(t["LAN"], 80) }},
	{"connect to port 22 outside", func(t targets) error { return connect(t["World"], 22) }},
	{"connect to port 22 by fast open", func(t targets) error {
		return withTCP(func(fd int) error { return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, at(t["World"], 22)) })
	}},
	{"bind to a device", func(targets) error {
		return withTCP(func(fd int) error { return unix.BindToDevice(fd, "lo") })
	}},
	{"make a user namespace", func(targets) error {
		return fork(unix.CLONE_NEWUSER)
	}},
	{"make one by clone3", func(targets) error {
		args := [11]uint64{0: unix.CLONE_NEWUSER, 4: uint64(unix.SIGCHLD)}
		pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
		return child(pid, errno)
	}},
	{"use keyrings", func(targets) error { return raw(unix.SYS_KEYCTL, 0, ^uintptr(2), 1) }},
	{"watch files", func(targets) error {
		fd, err := unix.InotifyInit1(0)
		unix.Close(fd)
		return err
	}},
	{"make written memory executable", func(targets) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	}},
	{"map memory to write and execute", func(targets) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	}},
	{"raise a limit again", func(targets) error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	}},
	{"use up descriptors", func(targets) error {
		for range 1000 {
			if _, err := unix.Dup(0); err != nil {
				return err
			}
		}
		return nil
	}},
	{"execute a shell", func(targets) error { return spawnShell(unix.SYS_EXECVE) }},
	{"execute a shell by execveat", func(targets) error { return spawnShell(unix.SYS_EXECVEAT) }},
	{"fork until nothing goes", func(targets) error {
		var err error
		var pids []uintptr
		for range 1500 {
			pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if errno != 0 {
				err = errno
				break
			}
			if pid == 0 {
				for {
					raw(unix.SYS_PPOLL, 0, 0, 0, 0) //nolint:errcheck // it waits to be killed
				}
			}
			pids = append(pids, pid)
		}
		for _, pid := range pids {
			unix.Kill(int(pid), unix.SIGKILL)
			unix.Wait4(int(pid), nil, 0, nil)
		}
		return err
	}},
	{"eat memory", func(targets) error {
		for range 16 {
			b, err := unix.Mmap(-1, 0, 32<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil {
				return err
			}
			defer unix.Munmap(b)
		}
		return nil
	}},
	{"leave a process that outlives it", func(targets) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			_, _, errno := unix.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
			raw(unix.SYS_EXIT_GROUP, uintptr(errno)) //nolint:errcheck // it does not return
		}
		if errno != 0 {
			return errno
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(int(pid), &status, 0, nil); err != nil {
			return err
		}
		if status.ExitStatus() != 0 {
			return unix.Errno(status.ExitStatus())
		}
		return nil
	}},
	{"connect to another AppVM from the port where it listens", func(t targets) error {
		unix.Close(t.number("Socket"))
		err := withTCP(func(fd int) error {
			if err := t.bindOwn(fd); err != nil {
				return err
			}
			return unix.Connect(fd, at(t["AppVM"], 80))
		})
		return errors.Join(err, t.listen())
	}},
	{"have its output read as fast as it floods", func(targets) error {
		const flood, quick = 8 << 20, time.Second // twice what it may say at once (readBurst, in package tinyproxy)
		line := []byte(strings.Repeat("x", 999) + "\n")
		begin := time.Now()
		for range flood / len(line) {
			if _, err := unix.Write(1, line); err != nil {
				return err
			}
		}
		if took := time.Since(begin); took > quick {
			unix.Nanosleep(&unix.Timespec{Sec: 3}, nil) // until this line fits into what is logged of it
			return fmt.Errorf("it waits for %d s", took/time.Second)
		}
		return nil
	}},
}

// fork makes a child that ends at once.
func fork(flags uintptr) error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, flags|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return child(pid, errno)
}

func child(pid uintptr, errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		raw(unix.SYS_EXIT_GROUP, 0) //nolint:errcheck // it does not return
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

// spawnShell has a child execute a shell that ends with a status of its own.
func spawnShell(call uintptr) error {
	path, _ := unix.BytePtrFromString("/bin/sh")
	argv := make([]*byte, 4)
	for i, a := range []string{"sh", "-c", "exit 42"} {
		argv[i], _ = unix.BytePtrFromString(a)
	}
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		args := [6]uintptr{uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0]))}
		if call == unix.SYS_EXECVEAT {
			args = [6]uintptr{0, uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(&argv[0])), 0, unix.AT_EMPTY_PATH}
		}
		_, _, errno := unix.RawSyscall6(call, args[0], args[1], args[2], args[3], args[4], args[5])
		raw(unix.SYS_EXIT_GROUP, uintptr(errno)) //nolint:errcheck // it does not return
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(pid), &status, 0, nil); err != nil {
		return err
	}
	if status.ExitStatus() == 42 {
		return nil
	}
	return unix.Errno(status.ExitStatus())
}
