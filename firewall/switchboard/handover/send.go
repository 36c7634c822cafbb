package handover

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Descriptor is handed over under a name.
type Descriptor struct {
	Name string
	FD   int
}

// barrierMax is how long systemd may take to read what it was sent.
const barrierMax = 5 * time.Second

// Send has the service manager keep descriptors for the daemon (sd_notify(3), FDSTORE=1), in the place of all that it kept of an
// earlier vifproxy-switchboard. socket is $NOTIFY_SOCKET. When Send has returned, the manager has them.
func Send(socket string, all []Descriptor) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil { // @ stands for an abstract name
		return fmt.Errorf("connect to the service manager at %s: %w", socket, err)
	}
	send := func(text string, fds ...int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		if err := unix.Sendmsg(fd, []byte(text), rights, nil, unix.MSG_NOSIGNAL); err != nil {
			return fmt.Errorf("tell the service manager %q: %w", text, err)
		}
		return nil
	}
	for _, name := range names() {
		if err := send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
			return err
		}
	}
	for _, d := range all {
		// systemd drops what it finds broken with poll(2), and that is what poll says of a map (bpf_map_poll in the kernel's
		// kernel/bpf/syscall.c: EPOLLERR), see findings/fd-store-drops-bpf-maps.sh. FDPOLL= is for systemd 246 and later.
		if err := send("FDSTORE=1\nFDNAME="+d.Name+"\nFDPOLL=0", d.FD); err != nil {
			return err
		}
	}
	// The manager closes the other end of a pipe when it has read all that came before (sd_notify_barrier(3), systemd 246).
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[0])
	err = send("BARRIER=1", pipe[1])
	unix.Close(pipe[1])
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(barrierMax); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pipe[0])}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return fmt.Errorf("the service manager has not read what it was told within %v", barrierMax)
		default:
			return nil
		}
	}
}

// Refuse hands over why there is no switchboard.
func Refuse(socket string, why error) error {
	fd, err := unix.MemfdCreate(RefusedName, unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), RefusedName)
	defer f.Close()
	if _, err := f.WriteString(strings.ReplaceAll(why.Error(), "\n", " ")); err != nil {
		return err
	}
	return Send(socket, []Descriptor{{RefusedName, fd}})
}

// names returns those of all that is ever handed over.
func names() []string {
	return []string{Bindings.Name, Sockets.Name, Expected.Name, Port.Name, ConnectionsName, LookupName, RefusedName}
}
