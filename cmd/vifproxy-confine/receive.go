package main

import (
	"syscall"

	"vifproxy/tinyproxy/confine/handover"
)

// receive waits for a message. It makes the output in it ours, for error messages too, and what is to be passed on descriptors 3 and 4.
// It reports whether there is a message.
func receive(socket int) (m handover.Message, ok bool) {
	syscall.CloseOnExec(socket)
	// No descriptor that comes gets one of the numbers that are passed on.
	if err := syscall.Dup3(socket, socket+1, syscall.O_CLOEXEC); err != nil {
		fail(handover.CannotConfine, "descriptor", err.(syscall.Errno))
	}
	message, control := make([]byte, 1<<16), make([]byte, 128)
	n, controlled, err := 0, 0, error(syscall.EINTR)
	for err == syscall.EINTR {
		n, controlled, _, _, err = syscall.Recvmsg(socket, message, control, syscall.MSG_CMSG_CLOEXEC)
	}
	if err == nil && n == 0 {
		return m, false
	}
	var fds []int
	if err == nil {
		var messages []syscall.SocketControlMessage
		if messages, err = syscall.ParseSocketControlMessage(control[:controlled]); err == nil && len(messages) == 1 {
			fds, err = syscall.ParseUnixRights(&messages[0])
		}
	}
	if err == nil {
		m, ok = handover.Decode(string(message[:max(n, 0)]), fds)
	}
	if !ok {
		fail(handover.CannotConfine, "message", syscall.EPROTO)
	}
	for _, standard := range []int{1, 2} {
		if err := syscall.Dup3(m.Output, standard, 0); err != nil {
			fail(handover.CannotConfine, "output", err.(syscall.Errno))
		}
	}
	for i, fd := range m.Pass {
		if fd < 0 {
			continue
		}
		if err := syscall.Dup3(fd, socket+i, 0); err != nil {
			fail(handover.CannotConfine, "descriptor to pass on", err.(syscall.Errno))
		}
	}
	return m, true
}
