package nameserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vifproxy/internal/capability"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

const (
	// saidLines is how many lines of what a resolver has said are kept for the message about its end.
	saidLines = 40

	// lineMax is how many bytes of a line are kept.
	lineMax = 512

	// The log has so many lines of it at once, and one in this time in the long run, of all resolvers together.
	loggedBurst    = 20
	loggedInterval = time.Minute

	// So many bytes of it are read at once, and in a second in the long run. Then it waits in write(2).
	heardBurst = 256 << 10
	heardRate  = 64 << 10

	// lastWordsMax is how long its last words may take.
	lastWordsMax = 100 * time.Millisecond
)

// A child is the process of a resolver.
type child struct {
	server *Server
	pid    int
	cell   *confine.Cell
	output *os.File

	reading sync.WaitGroup
	said    []string // the reader's until reading is done
}

// crash matches the reason that the runtime of Go gives for the end of a program (printpanics in runtime/panic.go, Go 1.26).
var crash = regexp.MustCompile(`^(runtime|fatal error|panic|SIG[A-Z]+): `)

// fork runs what is sent to it, on a thread that lives as long as the Server: a parent-death signal comes when the thread that forked ends.
func (s *Server) fork(ready chan<- error) {
	runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
	ready <- capability.Leave(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP)
	for {
		select {
		case f := <-s.forks:
			f()
		case <-s.life.Done():
			return
		}
	}
}

// spawn starts a resolver. It returns the daemon's end of their conversation.
func (s *Server) spawn() (c *child, conn *net.UnixConn, err error) {
	if err := s.mendSocket(); err != nil {
		return nil, nil, fmt.Errorf("socket for questions for names: %w", err)
	}
	cell, err := s.o.Sandbox.PrepareNames(s.program)
	if err != nil {
		return nil, nil, fmt.Errorf("confine it: %w", err)
	}
	defer cell.Started()
	var opened []int
	defer func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}()
	pair := func(kind int) (p [2]int, err error) {
		p, err = unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return p, os.NewSyscallError("socketpair", err)
		}
		opened = append(opened, p[0], p[1])
		return p, nil
	}
	order, err := pair(unix.SOCK_SEQPACKET) // for vifproxy-confine
	if err != nil {
		return nil, nil, err
	}
	talk, err := pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	opened = append(opened, pipe[1])
	_ = unix.SetNonblock(pipe[0], true) // on our side alone
	c = &child{server: s, cell: cell, output: os.NewFile(uintptr(pipe[0]), "output of vifproxy-names")}
	room, err := s.o.Sandbox.NewRoom()
	if err != nil {
		c.output.Close()
		return nil, nil, err
	}
	defer room.Shut()
	if c.pid, err = s.execute(room, order[1], cell.Memory()); err == nil {
		err = cell.HandOver(room, order[0], tinyproxy.NamesUID, pipe[1], []string{"vifproxy-names"}, talk[1], int(s.socket.Fd()))
	}
	if err == nil {
		conn, err = connection(talk[0])
	}
	if err != nil {
		c.output.Close()
		if c.pid > 0 {
			_ = unix.Kill(-c.pid, unix.SIGKILL)
			_, _ = syscall.Wait4(c.pid, nil, 0, nil)
		}
		return nil, nil, errors.Join(fmt.Errorf("start it: %w", err), room.Remove())
	}
	c.reading.Go(c.listen)
	return c, conn, nil
}

// connection returns a connection of a descriptor, which it does not close.
func connection(fd int) (*net.UnixConn, error) {
	again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(again), "vifproxy-names")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// execute starts a vifproxy-confine that waits for an order, and becomes a program that may use so much memory. Go's collector is to work
// harder before the kernel ends it: GOMEMLIMIT, package runtime.
func (s *Server) execute(room confine.Room, order int, memory uint64) (pid int, err error) {
	env := append([]string{fmt.Sprintf("GOMEMLIMIT=%d", memory-memory/4)}, tinyproxy.Environment...)
	done := make(chan struct{})
	fork := func() {
		defer close(done)
		pid, err = s.o.Sandbox.ForkExec(room, order, confine.NamesScore, env, &syscall.SysProcAttr{Setsid: true, Pdeathsig: unix.SIGKILL})
	}
	select {
	case s.forks <- fork:
		<-done
		return pid, err
	case <-s.life.Done():
		return 0, s.life.Err()
	}
}

// end ends the process, if it has not ended, and returns why it has.
func (c *child) end(why error) error {
	// Until Wait4, the number is its own.
	_ = unix.Kill(-c.pid, unix.SIGKILL)
	c.cell.Kill()
	var status syscall.WaitStatus
	_, err := syscall.Wait4(c.pid, &status, 0, nil)
	_ = c.output.SetReadDeadline(time.Now().Add(lastWordsMax))
	c.reading.Wait()
	c.output.Close()
	c.server.ending.Go(func() {
		if err := c.cell.Remove(); err != nil {
			c.server.o.Events.Log.Warn("cgroup of an ended resolver stays", "err", err)
		}
	})
	switch {
	case !errors.Is(why, io.EOF) && !errors.Is(why, io.ErrUnexpectedEOF): // we have ended it
	case err != nil:
		why = fmt.Errorf("it ended with unknown status: %w", err)
	case status.Signaled():
		why = fmt.Errorf("signal: %v", status.Signal())
	default:
		why = fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return reason(why, c.said)
}

// listen reads what the resolver says to people, which should be nothing.
func (c *child) listen() {
	heard := rate.NewLimiter(heardRate, heardBurst)
	var part []byte
	line := func(text []byte) {
		text = text[:min(len(text), lineMax)]
		if len(c.said) == saidLines { // the first half stays: a crash says its reason first
			c.said = append(c.said[:saidLines/2], c.said[saidLines/2+1:]...)
		}
		c.said = append(c.said, string(text))
		if c.server.logged.Allow() {
			c.server.o.Events.Log.Warn("the resolver says", "text", string(text))
		}
	}
	chunk := make([]byte, 4096)
	for {
		n, err := c.output.Read(chunk)
		for rest := chunk[:n]; len(rest) > 0; {
			piece, after, ended := bytes.Cut(rest, []byte("\n"))
			part = append(part, piece[:min(len(piece), max(0, lineMax-len(part)))]...)
			if rest = after; ended {
				line(part)
				part = part[:0]
			}
		}
		if err != nil {
			break
		}
		time.Sleep(heard.ReserveN(time.Now(), n).Delay())
	}
	if len(part) > 0 {
		line(part)
	}
}
