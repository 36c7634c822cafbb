package process

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/confine/handover"
)

// TestCrashOfARecruit has the Go runtime end a vifproxy-confine when it has the output of the proxy: the reason is in the error.
func TestCrashOfARecruit(t *testing.T) {
	l := newLauncher(t, confined(t, confine.New))
	recruited := <-l.recruits
	// Between the daemon and the recruit, the test makes it enter a group that never takes it: a full pipe.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	between := &recruit{recruited.pid, recruited.pidfd, pair[0]}
	full := fullPipe(t)
	failed := make(chan error, 1)
	go func() { l.recruits <- between }()
	go func() {
		p, err := l.Start(bounded(t), realBinary, newSpec(l, "social", 61000))
		if err == nil {
			p.Kill()
		}
		failed <- err
	}()
	text, control := make([]byte, 1<<16), make([]byte, 128)
	n, controlled, _, _, err := unix.Recvmsg(pair[1], text, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	m, ok := handover.Decode(string(text[:n]), fds)
	if !ok {
		t.Fatalf("%q", text[:n])
	}
	m.Group = full
	changed, given := m.Encode()
	if err := unix.Sendmsg(recruited.socket, []byte(changed), unix.UnixRights(given...), nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	unix.Close(recruited.socket)
	for ctx := bounded(t); ; {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", recruited.pid)); strings.HasPrefix(to, "pipe:") {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("it does not take the output of the proxy")
		}
	}
	if err := unix.Kill(recruited.pid, unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), `vifproxy-confine crashed; it said "SIGQUIT: quit"`) {
		t.Errorf("%v", err)
	}
}

// fullPipe returns the end of a pipe to which nothing can be written.
func fullPipe(t *testing.T) int {
	t.Helper()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pipe[0]); unix.Close(pipe[1]) })
	for block := make([]byte, 4096); ; {
		if _, err := unix.Write(pipe[1], block); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(pipe[1], false); err != nil { // for the write of the recruit to wait
		t.Fatal(err)
	}
	return pipe[1]
}
