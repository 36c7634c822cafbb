package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lab"
)

// caller is a client in an AppVM: plain system calls on a thread that is there already, since what Go's network
// poller and the way into the namespace take would be part of each figure.
type caller struct {
	nic      string
	addr     netip.Addr
	patience time.Duration // with a connection
}

// from runs f with a client behind a vif.
func (s *site) from(vm lab.VM, f func(c caller) error) error {
	return s.Through(vm.Vif(), func(nic string) error { return f(caller{nic, vm.IP, answerTime}) })
}

// pause lies between two attempts: about what one takes.
const pause = 200 * time.Microsecond

// until asks for a host until the answer is as wanted, and says when it came.
func (c caller) until(host string, wanted func(status int) bool) (time.Time, error) {
	for end := time.Now().Add(patience); ; nap(pause) {
		status, err := c.ask(host)
		now := time.Now()
		if err == nil && wanted(status) {
			return now, nil
		}
		if now.After(end) {
			return now, fmt.Errorf("%v asks for %s for %v in vain: status %d, %w", c.addr, host, patience, status, err)
		}
	}
}

func nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil) // a signal may cut it short
}

// ask requests a page of a host from the proxy and returns the status of the answer.
func (c caller) ask(host string) (status int, err error) {
	fd, err := c.connect()
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
		if err := await(fd, unix.POLLIN, patience); err != nil {
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

// connect opens a connection to the gateway's proxy port.
func (c caller) connect() (fd int, err error) {
	return c.connectTo(netip.AddrPortFrom(lab.Gateway, lab.ProxyPort))
}

// answerTime is how long whoever waits for a proxy lets a connection take: when an answer to the first packet is
// lost, the kernel asks again only after a second.
const answerTime = 20 * time.Millisecond

func (c caller) connectTo(to netip.AddrPort) (fd int, err error) {
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
		unix.BindToDevice(fd, c.nic),
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: c.addr.As4()}))
	if err != nil {
		return fd, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != unix.EINPROGRESS {
		return fd, err
	}
	if err := await(fd, unix.POLLOUT, c.patience); err != nil {
		return fd, err
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = unix.Errno(errno)
	}
	return fd, err
}

func await(fd int, event int16, most time.Duration) error {
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
