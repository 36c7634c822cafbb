package main

import (
	"strings"
	"syscall"
)

// order is what Cell.Order of package confine sends.
type order struct {
	uid     uintptr
	limits  string // resource limits, "7:464,6:400"
	slack   int    // nanoseconds
	argv    []string
	group   int // descriptors, closed by execve: a cgroup.procs, -1 for none
	ruleset int // of Landlock, -1 for none
	once    int // files with seccomp filters, -1 for none
	allowed int
}

// receive waits for an order and makes its output ours, for error messages too; nil is the end.
func receive(socket int) *order {
	syscall.CloseOnExec(socket)
	message, control := make([]byte, 1<<16), make([]byte, 128)
	n, controlled, err := 0, 0, error(syscall.EINTR)
	for err == syscall.EINTR {
		n, controlled, _, _, err = syscall.Recvmsg(socket, message, control, syscall.MSG_CMSG_CLOEXEC)
	}
	if err == nil && n == 0 {
		return nil
	}
	var fds []int
	if err == nil {
		var messages []syscall.SocketControlMessage
		if messages, err = syscall.ParseSocketControlMessage(control[:controlled]); err == nil && len(messages) == 1 {
			fds, err = syscall.ParseUnixRights(&messages[0])
		}
	}
	words := strings.Split(string(message[:max(n, 0)]), "\x00")
	if err != nil || len(words) < 5 || len(fds) != len(words[0]) || len(fds) == 0 {
		fail(cannotConfine, "order", syscall.EPROTO)
	}
	o := &order{group: -1, ruleset: -1, once: -1, allowed: -1,
		uid: uintptr(number(words[1])), limits: words[2], slack: number(words[3]), argv: words[4:]}
	for i, what := range words[0] {
		switch fd := fds[i]; what {
		case 'o':
			for _, standard := range []int{1, 2} {
				if err := syscall.Dup3(fd, standard, 0); err != nil {
					fail(cannotConfine, "output", err.(syscall.Errno))
				}
			}
		case 'g':
			o.group = fd
		case 'l':
			o.ruleset = fd
		case '1':
			o.once = fd
		case 'a':
			o.allowed = fd
		}
	}
	return o
}
