package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
	"vifproxy/tinyproxy/confine"
)

// TestCrashOfARecruit has the Go runtime end a vifproxy-confine that has put everything into force: the reason is in the error. It waits
// in execve(2) for a lease on the program, which the test holds.
func TestCrashOfARecruit(t *testing.T) {
	l := newLauncher(t, confined(t, confine.New))
	content, err := os.ReadFile(realBinary)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(openDir(t), "tinyproxy")
	syscall.ForkLock.RLock() // as in program
	err = os.WriteFile(program, content, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	recruited := await.Value(t, "a recruit", l.recruits)
	between := *recruited
	mine, socket := socketpair(t)
	between.socket = mine
	go func() { l.recruits <- &between }()
	failed := make(chan error, 1)
	go func() { // until it is the turn of this recruit
		for port := uint16(61000); ; port++ {
			p, err := l.Start(bounded(t), program, newSpec(l, "social", port))
			if err != nil {
				failed <- err
				return
			}
			p.Kill()
		}
	}()
	text, control := make([]byte, 1<<16), make([]byte, 128)
	n, controlled, _, _, err := unix.Recvmsg(socket, text, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	held := lease(t, program)
	given := rights(t, control[:controlled])
	if err := unix.Sendmsg(recruited.socket, text[:n], unix.UnixRights(given...), nil, 0); err != nil {
		t.Fatal(err)
	}
	for _, fd := range append(given, recruited.socket) {
		unix.Close(fd)
	}
	for ctx := bounded(t); ; {
		if kind, err := unix.FcntlInt(held.Fd(), unix.F_GETLEASE, 0); err != nil || ctx.Err() != nil {
			t.Fatalf("it does not execute the program: %v", err)
		} else if kind != unix.F_WRLCK {
			break // somebody waits for it
		}
	}
	if err := unix.Kill(recruited.pid, unix.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	if err := await.Value(t, "the failure of its start", failed); !strings.Contains(err.Error(), `vifproxy-confine crashed; it said "SIGQUIT: quit"`) {
		t.Error(err)
	}
}

// TestCPUsOfARecruit has the number of CPUs change while a vifproxy-confine waits, as when somebody limits those of the daemon.
func TestCPUsOfARecruit(t *testing.T) {
	var usual, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &usual); err != nil {
		t.Fatal(err)
	}
	if usual.Count() == 1 {
		t.Skip("there is one CPU")
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if usual.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	l := newLauncher(t, confined(t, confine.New))
	for port := uint16(61000); port < 61002; port++ {
		recruited := await.Value(t, "a recruit", l.recruits)
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", recruited.pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("threads %q, %v", threads, err)
		}
		for _, thread := range threads {
			tid, _ := strconv.Atoi(filepath.Base(thread))
			if err := unix.SchedSetaffinity(tid, &one); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
		time.Sleep(1200 * time.Millisecond) // the Go runtime does not look more often than once in a second
		taken := make(chan bool)
		go func() { l.recruits <- recruited; close(taken) }()
		for done := false; !done; { // until it is the turn of this recruit
			start(t, l, realBinary, newSpec(l, "social", port)).Kill()
			select {
			case <-taken:
				done = true
			default:
			}
		}
	}
}

func socketpair(t *testing.T) (a, b int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	return pair[0], pair[1]
}

// rights returns the descriptors that came with a message.
func rights(t *testing.T, control []byte) []int {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return fds
}

// lease opens a file so that whoever opens it too waits, until the test ends.
func lease(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for ctx := bounded(t); ; { // as long as an earlier process has it open
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
		if err == nil {
			return f
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
