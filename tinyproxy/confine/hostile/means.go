package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

const (
	typeA    = 1
	typeAAAA = 28
	classIN  = 1

	answerTimeout = 3000 // ms
)

// message returns a question for the records of a name (RFC 1035, section 4.1).
func message(name string, kind, class byte) []byte {
	m := []byte{0x27, 0x10, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0} // id, recursion desired, one question
	for label := range strings.SplitSeq(name, ".") {
		m = append(append(m, byte(len(label))), label...)
	}
	return append(m, 0, 0, kind, 0, class)
}

// ask asks the name server of resolv.conf for records of a name.
func ask(t targets, name string, kind byte) error {
	return question(t["NameServer"], message(name, kind, classIN), kind == typeA || kind == typeAAAA)
}

// askWhenFenced asks as soon as the fence knows this process. It listens before that, and a tinyproxy has no client then.
func askWhenFenced(t targets, name string) (err error) {
	for range 100 {
		if err = ask(t, name, typeA); !errors.Is(err, unix.EPERM) {
			break
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 1e8}, nil) //nolint:errcheck // a signal may end it
	}
	return err
}

// question asks a name server, at its usual port. The error is nil if it answers without an error, and if wanted, with a record.
func question(server string, m []byte, record bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, m, 0, at(server, 53)); err != nil {
		return err
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(ready, answerTimeout); n == 0 || err != nil {
		return errors.Join(errors.New("no answer"), err)
	}
	answer := make([]byte, 512)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	switch {
	case err != nil:
		return err
	case n < len(m[:12]):
		return errors.New("no message")
	case answer[3]&15 != 0:
		return fmt.Errorf("rcode %d", answer[3]&15)
	case record && answer[7] == 0:
		return errors.New("no record")
	}
	return nil
}

const (
	floodTime = 2 * time.Second
	floodMax  = 200_000 // packets
)

// flood sends a packet over and over, and prints when it did so. It returns how many it has sent, and how many of these the kernel refused.
func flood(what, to string, port int, packet []byte) (sent, refused int) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 1, 1
	}
	defer unix.Close(fd)
	began, target := time.Now(), at(to, port) // once, because nobody collects it
	for ; sent < floodMax && (sent%1000 != 0 || time.Since(began) < floodTime); sent++ {
		if unix.Sendto(fd, packet, 0, target) != nil {
			refused++
		}
	}
	fmt.Fprintf(output{}, "flood\t%s\t%d\t%d\t%d\n", what, began.UnixNano(), time.Now().UnixNano(), sent)
	return sent, refused
}

// output is standard output.
type output struct{}

func (output) Write(text []byte) (int, error) { return unix.Write(1, text) }

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
