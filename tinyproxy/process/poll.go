package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy/leftover"
)

// readAtOnce is how many bytes are read of a proxy's output before others get their turn: the size of a pipe (pipe(7)).
const readAtOnce = 64 << 10

// An AppVM that owns its proxy can make it write as fast as a CPU can read, and no cgroup limits the daemon. So the daemon
// reads no more than this. The pipe fills, and the proxy waits in write(2). A request makes half a KB, so this is 4000
// requests a second, which take some percent of a CPU here.
const (
	readRate  = 2 << 20 // bytes a second, for each AppVM
	readBurst = 4 << 20
	// readInterval is the pause between two reads of a proxy's output. tinyproxy writes one line at a time, seven for a
	// request, and a read for each costs more CPU than the request itself.
	readInterval = 10 * time.Millisecond
	// lastWords is how many bytes are read of a proxy that has ended: what a pipe holds.
	lastWords = readAtOnce
)

// A poller reads what all proxies say, and sees them end. It is a single goroutine. A goroutine for each proxy would need a
// stack of some KB each for as long as its AppVM is connected.
type poller struct {
	fd      int      // an epoll instance
	file    *os.File // of fd
	stopped chan struct{}
	buffer  []byte // for what is read

	mu      sync.Mutex
	watched map[int]*Proxy // by two descriptors: of its output, and of its process
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(fd, true) // so that Go's own poller waits for it instead of a thread
	w := &poller{
		fd: fd, file: os.NewFile(uintptr(fd), "epoll"), stopped: make(chan struct{}), watched: make(map[int]*Proxy),
		buffer: make([]byte, readAtOnce), // a local one would be on the stack, and be resident as a whole
	}
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		w.file.Close()
		return nil, fmt.Errorf("wait for epoll: %w", err)
	}
	go w.run()
	return w, nil
}

// close ends the poller when no proxy runs any more.
func (w *poller) close() {
	w.file.Close()
	<-w.stopped
}

// watch adds the output and the process of a proxy, or neither if it fails. Events that come before it returns wait for the
// lock.
func (w *poller) watch(p *Proxy) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, p.pipe, nextOutput(p.pipe))
	if err == nil {
		end := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.pidfd)}
		err = unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, p.pidfd, end)
	}
	if err != nil {
		_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, p.pipe, nil)
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.watched[p.pipe], w.watched[p.pidfd] = p, p
	return nil
}

// remove must come before the descriptor is closed. Closing alone does not remove it while a child before its exec has a copy
// (epoll(7)).
func (w *poller) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, fd, nil)
	delete(w.watched, fd)
}

// nextOutput asks for one event. If a turn leaves something unread, the next request for an event reports it. Lines that come
// in between cost no turn.
func nextOutput(fd int) *unix.EpollEvent {
	return &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}
}

// pause leaves a proxy's output unread for a while.
func (w *poller) pause(fd int, p *Proxy, wait time.Duration) {
	time.AfterFunc(wait, func() { w.resume(fd, p) })
}

func (w *poller) resume(fd int, p *Proxy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[fd] == p { // it still runs
		_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_MOD, fd, nextOutput(fd)) // allocates nothing, so it cannot fail
	}
}

func (w *poller) run() {
	defer close(w.stopped)
	conn, err := w.file.SyscallConn()
	events := make([]unix.EpollEvent, 64)
	for err == nil {
		n := 0
		err = conn.Read(func(fd uintptr) bool { // fails when it is closed
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, e := range events[:n] {
			w.look(int(e.Fd))
		}
	}
}

// look handles an event. It does not trust the event, because the descriptor may have been closed since, and its number may
// belong to another proxy.
func (w *poller) look(fd int) {
	w.mu.Lock()
	p := w.watched[fd]
	w.mu.Unlock()
	switch {
	case p == nil:
	case fd == p.pidfd:
		if leftover.IsDead(fd) {
			w.remove(fd)
			unix.Close(fd)
			if p.pipe >= 0 {
				w.remove(p.pipe)
			}
			go p.cleanUp()
		}
	default:
		switch n, err := unix.Read(fd, w.buffer); {
		case n > 0:
			p.output.Write(w.buffer[:n])
			wait := readInterval
			if log := p.log; log != nil { // a trial has none, and ends soon
				wait = max(wait, log.intake.ReserveN(time.Now(), n).Delay())
			}
			w.pause(fd, p, wait)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			w.resume(fd, p)
		default: // end of file
			w.remove(fd)
			unix.Close(fd)
			p.pipe = -1
		}
	}
}
