package handover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how to get a switchboard that systemd has not handed over.
type Options struct {
	Program string // path of vifproxy-switchboard
	Group   string // directory of the proxies' cgroup
}

// loadMax is how long vifproxy-switchboard may take.
const loadMax = 5 * time.Second

// Obtain returns the switchboard that systemd has handed over (see Inherited). Root who has started the daemon by hand gets one too:
// then the daemon runs vifproxy-switchboard and does what systemd would. The error says in plain words why there is no switchboard.
func Obtain(ctx context.Context, inherited []*os.File, o Options) (*Switchboard, error) {
	s, err := receive(inherited, o.Group)
	// systemd says which process it has executed (systemd.exec(5), v248): what a shell has inherited is not about this one.
	bySystemd := os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid())
	if errors.Is(err, ErrNotLoaded) && !bySystemd {
		if os.Geteuid() != 0 {
			return nil, errors.New("vifproxyd was started by hand, and not by root")
		}
		return load(ctx, o)
	}
	return s, err
}

// messageMax is the size of a message to systemd, and of what comes with it.
const messageMax = 1 << 10

// load runs vifproxy-switchboard.
func load(ctx context.Context, o Options) (*Switchboard, error) {
	ctx, cancel := context.WithTimeout(ctx, loadMax)
	defer cancel()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{}) // the kernel finds a name (unix(7))
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	if err := credentials(socket); err != nil {
		return nil, err
	}
	var said bytes.Buffer
	program := exec.CommandContext(ctx, o.Program, "--cgroup="+o.Group)
	program.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket.LocalAddr().String())
	program.Stdout, program.Stderr = &said, &said
	if err := program.Start(); err != nil {
		return nil, fmt.Errorf("run vifproxy-switchboard: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- program.Wait()
		_ = socket.SetReadDeadline(time.Now()) // nothing comes any more
	}()
	files, err := Keep(socket, program.Process.Pid)
	if err != nil {
		cancel()
	}
	if end := <-ended; end != nil {
		err = fmt.Errorf("vifproxy-switchboard: %w: %s", end, strings.TrimSpace(said.String()))
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return nil, err
	}
	return receive(files, o.Group)
}

// credentials has the kernel say which process has sent a message.
func credentials(socket *net.UnixConn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

// Keep does systemd's part of Send, for one process: it takes descriptors until there is a barrier. The socket is told who sends
// (SO_PASSCRED).
func Keep(socket *net.UnixConn, pid int) (kept []*os.File, err error) {
	text, control := make([]byte, messageMax), make([]byte, messageMax)
	for {
		n, controls, _, _, err := socket.ReadMsgUnix(text, control) // descriptors are close-on-exec
		if err != nil {
			return kept, fmt.Errorf("vifproxy-switchboard has ended before it had handed over everything: %w", err)
		}
		sender, files, err := ancillary(control[:controls])
		if err != nil {
			return kept, err
		}
		state := map[string]string{}
		for line := range strings.SplitSeq(string(text[:n]), "\n") {
			name, value, _ := strings.Cut(line, "=")
			state[name] = value
		}
		if sender == pid && state["FDSTORE"] == "1" {
			for _, fd := range files {
				kept = append(kept, os.NewFile(uintptr(fd), state["FDNAME"]))
			}
			continue
		}
		for _, fd := range files { // of a barrier, or of somebody else
			unix.Close(fd)
		}
		if sender == pid && state["BARRIER"] == "1" {
			return kept, nil
		}
	}
}

// ancillary returns who has sent a message, and the descriptors in it (unix(7)).
func ancillary(control []byte) (sender int, files []int, err error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return 0, nil, err
			}
			files = append(files, fds...)
		case unix.SCM_CREDENTIALS:
			c, err := unix.ParseUnixCredentials(&m)
			if err != nil {
				return 0, nil, err
			}
			sender = int(c.Pid)
		}
	}
	return sender, files, nil
}
