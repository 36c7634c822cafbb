// Package caller is a client in an AppVM of the bench: plain system calls on a thread that is there already, since what Go's network
// poller and the way into the namespace take would be part of each figure.
package caller

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// A Caller is a client behind a vif. It belongs to the thread that is there.
type Caller struct {
	NIC      string // the AppVM's end of the vif
	Addr     netip.Addr
	Patience time.Duration // with a connection
}

const (
	// Pause lies between two attempts: about what one takes.
	Pause = 200 * time.Microsecond
	// AnswerTime is the Patience of who waits for a proxy: when an answer to the first packet is lost, the kernel asks again only after
	// a second.
	AnswerTime = 20 * time.Millisecond
	// patience is how long something may take that should happen at once.
	patience = 30 * time.Second
)

// Until asks for a host until the answer is as wanted, and says when it came.
func (c Caller) Until(host string, wanted func(status int) bool) (time.Time, error) {
	for end := time.Now().Add(patience); ; Nap(Pause) {
		status, err := c.Ask(host)
		now := time.Now()
		if err == nil && wanted(status) {
			return now, nil
		}
		if now.After(end) {
			return now, fmt.Errorf("%v asks for %s for %v in vain: status %d, %w", c.Addr, host, patience, status, err)
		}
	}
}

// Nap sleeps.
func Nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil) // a signal may cut it short
}

// Ask requests a page of a host from the proxy and returns the status of the answer.
func (c Caller) Ask(host string) (status int, err error) {
	fd, err := c.Connect()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	request := "GET http://" + host + "/ HTTP/1.0\r\nHost: " + host + "\r\n\r\n"
	if _, err := unix.Write(fd, []byte(request)); err != nil {
		return 0, err
	}
	answer := make([]byte, 0, 4096)
	for { // to its end, so that a request is one also for the proxy
		if err := Await(fd, unix.POLLIN, patience); err != nil {
			return status, err
		}
		n, err := unix.Read(fd, answer[len(answer):cap(answer)])
		if err != nil || n == 0 {
			return status, err
		}
		if status == 0 {
			answer = answer[:n]
			if _, err := fmt.Sscanf(string(answer), "HTTP/1.%d %d", new(int), &status); err != nil {
				return 0, fmt.Errorf("answer %.40q: %w", answer, err)
			}
			answer = answer[:0]
		}
	}
}

// Connect opens a connection to the gateway's proxy port.
func (c Caller) Connect() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	err = errors.Join(
		unix.BindToDevice(fd, c.NIC),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: c.Addr.As4()}))
	if err != nil {
		return fd, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: lab.Gateway.As4(), Port: lab.ProxyPort})
	if err != unix.EINPROGRESS {
		return fd, err
	}
	if err := Await(fd, unix.POLLOUT, c.Patience); err != nil {
		return fd, err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return fd, err
}

// Await waits for an event of a descriptor, see poll(2). The error is ETIMEDOUT after that time.
func Await(fd int, event int16, most time.Duration) error {
	timeout := unix.NsecToTimespec(most.Nanoseconds())
	for {
		n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(fd), Events: event}}, &timeout, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			return nil
		}
	}
}
