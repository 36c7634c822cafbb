package nameserver

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

// listen makes the socket that questions come to. It gets what is sent over the loopback and nothing else, whatever address that is sent
// to. Whoever reads it asks for IP_PKTINFO, which tells the address. The socket belongs to the uid of the resolver: to the fence, a
// packet is of who made its socket, whoever uses that now (f_cred in nft_meta_get_eval_skugid, net/netfilter/nft_meta.c). Otherwise an
// owned resolver would send what it likes to any program on the loopback. Port 0 is any.
func listen(port uint16) (_ *os.File, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SetfsuidRetUid(tinyproxy.NamesUID)
	if err != nil {
		return nil, os.NewSyscallError("setfsuid", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	unix.SetfsuidRetUid(before) //nolint:errcheck // always allowed: it is the process's own uid
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "questions for names")
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err = unix.BindToDevice(fd, "lo"); err != nil {
		return nil, os.NewSyscallError("SO_BINDTODEVICE", err)
	}
	// Questions wait while no resolver runs. Without CAP_NET_ADMIN there is room for as many as net.core.rmem_max says.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, waitingMax) != nil {
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, waitingMax); err != nil {
			return nil, os.NewSyscallError("SO_RCVBUF", err)
		}
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return file, nil
}

// waitingMax is how many bytes of questions wait in the socket. The kernel counts some 800 for each.
const waitingMax = 4 << 20

// openSocket makes the socket that questions come to, at the port that it has had, and remembers how it is.
func (s *Server) openSocket() (err error) {
	if s.socket, err = listen(s.port); err != nil {
		return err
	}
	if s.port == 0 {
		name, err := unix.Getsockname(int(s.socket.Fd()))
		if err != nil {
			return os.NewSyscallError("getsockname", err)
		}
		s.port = uint16(name.(*unix.SockaddrInet4).Port)
	}
	s.room, err = unix.GetsockoptInt(int(s.socket.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUF)
	return os.NewSyscallError("SO_RCVBUF", err)
}

// mendSocket makes the socket anew if a resolver that somebody had taken over has left it otherwise than it got it: what connect(2),
// shutdown(2) and setsockopt(2) do belongs to the socket, and would hinder all that come after. No resolver may run. What waits in the
// socket is lost, and asked again.
func (s *Server) mendSocket() error {
	why, err := s.renewSocket()
	if why != nil {
		s.o.Events.Log.Warn("a resolver has left the socket for questions otherwise than it was: a new one is made", "why", why)
	}
	return err
}

// renewSocket makes the socket anew if it has to be, and returns why.
func (s *Server) renewSocket() (why, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socket != nil {
		if why = s.unsettled(); why == nil {
			return nil, nil
		}
		s.socket.Close()
		s.socket = nil
	}
	return why, s.openSocket()
}

// unsettled returns what is otherwise than it was about the socket; nil if nothing is.
func (s *Server) unsettled() error {
	fd := int(s.socket.Fd())
	if _, err := unix.Getpeername(fd); !errors.Is(err, unix.ENOTCONN) {
		return errors.New("it is connected")
	}
	name, err := unix.Getsockname(fd)
	if at, ok := name.(*unix.SockaddrInet4); err != nil || !ok || *at != (unix.SockaddrInet4{Port: int(s.port)}) {
		return errors.New("it has another name")
	}
	if device, err := unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE); err != nil || device != "lo" {
		return fmt.Errorf("it is bound to device %q", device)
	}
	for _, option := range []struct {
		name               string
		level, option, was int
	}{
		{"IP_RECVERR", unix.IPPROTO_IP, unix.IP_RECVERR, 0},
		{"SO_REUSEADDR", unix.SOL_SOCKET, unix.SO_REUSEADDR, 0},
		{"SO_RCVBUF", unix.SOL_SOCKET, unix.SO_RCVBUF, s.room},
	} {
		if is, err := unix.GetsockoptInt(fd, option.level, option.option); err != nil || is != option.was {
			return fmt.Errorf("%s is %d, and was %d", option.name, is, option.was)
		}
	}
	// shutdown(2) fails for a socket that is not connected, and is done (inet_shutdown in net/ipv4/af_inet.c of Linux 6.18,
	// findings/failed-shutdown-is-done.sh). Nothing but an attempt shows that it sends no more. It is to itself: no proxy asks there.
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(poll, 0); err != nil || poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP) != 0 {
		return errors.New("it is shut down")
	}
	if err := unix.Sendto(fd, nil, 0, &unix.SockaddrInet4{Port: int(s.port), Addr: [4]byte{127, 0, 0, 1}}); errors.Is(err, unix.EPIPE) {
		return errors.New("it is shut down for answers")
	}
	return nil
}
