package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
	{"read /etc/passwd", func(targets) error { return openFor(unix.O_RDONLY, "/etc/passwd") }},
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
	{"connect to another AppVM from the port that all AppVMs connect to", func(t targets) error {
		return withTCP(func(fd int) error {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if err := unix.Bind(fd, at(t["Gateway"], 8100)); err != nil {
				return err
			}
			return unix.Connect(fd, at(t["AppVM"], 80))
		})
	}},
	{"send UDP to another AppVM", func(t targets) error { return send(t["AppVM"], 5353) }},
	{"send UDP to port 443", func(t targets) error { return send(t["World"], 443) }},
	{"connect by an interface that is barred", func(t targets) error { return connect(t["Barred"], 80) }},
	{"connect to the LAN", func(t targets) error { return connect(t["LAN"], 80) }},
	{"connect to port 22 outside", func(t targets) error { return connect(t["World"], 22) }},
	{"connect to port 22 by fast open", func(t targets) error {
		return withTCP(func(fd int) error { return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, at(t["World"], 22)) })
	}},
	{"connect to an address that it was not told", func(t targets) error { return connect(t["World"], 80) }},
	{"connect there by TLS", func(t targets) error { return connect(t["World"], 443) }},
	{"connect there by fast open", func(t targets) error {
		return withTCP(func(fd int) error { return unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, at(t["World"], 80)) })
	}},
	{"connect to an address that its neighbour was told", func(t targets) error { return connect(t["Neighbour"], 80) }},
	{"connect to a name server, to ask it by HTTPS", func(t targets) error { return connect(t["OtherNameServer"], 443) }},
	{"connect to it, to ask it by TLS", func(t targets) error { return connect(t["OtherNameServer"], 853) }},
	{"connect to it, to ask it by TCP", func(t targets) error { return connect(t["OtherNameServer"], 53) }},
	{"ask for a name that is not listed", func(t targets) error { return ask(t, "unlisted.example", typeA) }},
	{"ask for its address of IPv6", func(t targets) error { return ask(t, "six.example", typeAAAA) }},
	{"ask for a name below a listed one", func(t targets) error { return ask(t, "x.listed.example", typeA) }},
	{"carry data out in a name", func(t targets) error { return ask(t, strings.Repeat("7365637265740a", 4)+".unlisted.example", typeA) }},
	{"ask another name server for it", func(t targets) error {
		return question(t["OtherNameServer"], message("unlisted.example", typeA, classIN), true)
	}},
	{"ask for a listed name that leads into the LAN", func(t targets) error { return ask(t, "lan.example", typeA) }},
	{"ask for the name that a listed one is an alias of", func(t targets) error {
		if err := ask(t, "alias.example", typeA); err != nil {
			return fmt.Errorf("the listed one has no address: %w", err)
		}
		return ask(t, "edge.example", typeA)
	}},
	{"ask what a listed name is an alias of", func(t targets) error { return ask(t, "alias.example", 5) }},
	{"ask for the text of a listed name", func(t targets) error { return ask(t, "listed.example", 16) }},
	{"ask for all that it has", func(t targets) error { return ask(t, "listed.example", 255) }},
	{"ask for its mail servers", func(t targets) error { return ask(t, "listed.example", 15) }},
	{"ask for its name servers", func(t targets) error { return ask(t, "listed.example", 2) }},
	{"ask for its services by HTTPS", func(t targets) error { return ask(t, "listed.example", 65) }},
	{"ask for its record without a meaning", func(t targets) error { return ask(t, "listed.example", 10) }},
	{"ask for its whole zone", func(t targets) error { return ask(t, "listed.example", 252) }},
	{"ask in another class", func(t targets) error {
		return question(t["NameServer"], message("listed.example", typeA, 3), false)
	}},
	{"tell a name server of a change", func(t targets) error {
		m := message("listed.example", typeA, classIN)
		m[2] |= 5 << 3 // update (RFC 2136)
		return question(t["NameServer"], m, false)
	}},
	{"ask two questions in one message", func(t targets) error {
		m := message("listed.example", typeA, classIN)
		m = append(m, message("unlisted.example", typeA, classIN)[12:]...)
		m[5] = 2
		return question(t["NameServer"], m, true)
	}},
	{"ask for a name with a zero byte", func(t targets) error { return ask(t, "listed\x00.example", typeA) }},
	{"append what no question has", func(t targets) error {
		return question(t["NameServer"], append(message("listed.example", typeA, classIN), "a secret"...), true)
	}},
	{"send something to the resolver in its neighbour's place", func(t targets) error {
		addr, port, _ := strings.Cut(t["Resolver"], ":")
		n, _ := strconv.Atoi(port)
		return send(addr, n)
	}},
	{"ask as many questions as it can", func(t targets) error {
		flood("others", t["World"], 443, []byte("x")) // which takes as much of the processor
		sent, refused := flood("questions", t["NameServer"], 53, message("listed.example", typeA, classIN))
		if refused > 0 {
			return fmt.Errorf("%d of %d are refused", refused, sent)
		}
		return nil
	}},
	{"connect to an address when its time is over", func(t targets) error {
		for time.Now().Before(pinned.Add(time.Duration(t.number("Pinned")) * time.Second)) {
			unix.Nanosleep(&unix.Timespec{Nsec: 1e8}, nil) //nolint:errcheck // a signal may end it
		}
		return connect(t["Fleeting"], 80)
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
	{"leave a dead child to the daemon", func(targets) error {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_PARENT|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno == 0 && pid == 0 {
			raw(unix.SYS_EXIT_GROUP, 0) //nolint:errcheck // it does not return
		}
		if errno != 0 {
			return errno
		}
		return nil
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
	// Last, because the daemon ends a proxy whose port is another socket's, at its next look after at most 10 s.
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
}
