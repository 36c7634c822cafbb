package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// readAtOnce is how many bytes of a proxy's output are read before it is another one's turn: as many as a pipe holds (pipe(7)).
const readAtOnce = 64 << 10

// An AppVM that owns its proxy can have it say as much as a CPU can read, and no cgroup limits the daemon. So no more is read
// than this; the pipe fills then, and the proxy waits in write(2). A request makes half a KB: that is 4000 a second, which
// take some percent of a CPU here.
const (
	readRate  = 2 << 20 // bytes a second, for each AppVM
	readBurst = 4 << 20
	// readInterval is how long the output of a proxy that has said something is not read again. tinyproxy writes a line at a
	// time, seven for a request, and a turn for each costs more CPU than the request itself.
	readInterval = 10 * time.Millisecond
	// lastWords is how many bytes are read of a proxy that has ended: what a pipe holds.
	lastWords = readAtOnce
)

// poller reads what all proxies say, and sees them end. It is one goroutine, since one for each proxy would be a stack
// for each, of some KB, for as long as the AppVM is connected.
type poller struct {
	fd      int      // an epoll instance
	file    *os.File // of fd
	stopped chan struct{}

	mu      sync.Mutex
	watched map[int]*Proxy // by descriptor: that of its output and that of its process
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	_ = unix.SetNonblock(fd, true) // so that Go's own poller waits for it, and no thread does
	w := &poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), stopped: make(chan struct{}), watched: make(map[int]*Proxy)}
	if err := w.file.SetReadDeadline(time.Time{}); err != nil {
		w.file.Close()
		return nil, fmt.Errorf("wait for epoll: %w", err)
	}
	go w.run()
	return w, nil
}

// close is called when no proxy runs any more.
func (w *poller) close() {
	w.file.Close()
	<-w.stopped
}

// watch has a proxy's output read and its end seen to, or neither if it fails: an event that comes before it returns
// waits for the lock.
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

// remove comes before closing: that alone would not do it while a child that has not come to its exec has a copy of the
// descriptor (epoll(7)).
func (w *poller) remove(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_DEL, fd, nil)
	delete(w.watched, fd)
}

// nextOutput asks for one event: what is not read in one turn makes the next when it is asked for again, and lines that come
// meanwhile cost no turn.
func nextOutput(fd int) *unix.EpollEvent {
	return &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}
}

// pause does not read a proxy's output for a while.
func (w *poller) pause(fd int, p *Proxy, wait time.Duration) {
	time.AfterFunc(wait, func() { w.resume(fd, p) })
}

func (w *poller) resume(fd int, p *Proxy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[fd] == p { // it has not ended meanwhile
		_ = unix.EpollCtl(w.fd, unix.EPOLL_CTL_MOD, fd, nextOutput(fd)) // allocates nothing, so it cannot fail
	}
}

func (w *poller) run() {
	defer close(w.stopped)
	conn, err := w.file.SyscallConn()
	events, buffer := make([]unix.EpollEvent, 64), make([]byte, readAtOnce)
	for err == nil {
		n := 0
		err = conn.Read(func(fd uintptr) bool { // fails when it is closed
			n, _ = unix.EpollWait(int(fd), events, 0)
			return n > 0
		})
		for _, e := range events[:n] {
			w.look(int(e.Fd), buffer)
		}
	}
}

// look is what an event leads to. It takes none at its word: meanwhile the descriptor may have been closed, and its
// number given to another proxy's.
func (w *poller) look(fd int, buffer []byte) {
	w.mu.Lock()
	p := w.watched[fd]
	w.mu.Unlock()
	switch {
	case p == nil:
	case fd == p.pidfd:
		if isDead(fd) {
			w.remove(fd)
			unix.Close(fd)
			if p.pipe >= 0 {
				w.remove(p.pipe)
			}
			go p.cleanUp()
		}
	default:
		switch n, err := unix.Read(fd, buffer); {
		case n > 0:
			p.output.Write(buffer[:n])
			wait := readInterval
			if log := p.output.log; log != nil { // a trial has none, and ends soon
				wait = max(wait, log.intake.ReserveN(time.Now(), n).Delay())
			}
			w.pause(fd, p, wait)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			w.resume(fd, p)
		default: // its end
			w.remove(fd)
			unix.Close(fd)
			p.pipe = -1
		}
	}
}
