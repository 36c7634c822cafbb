package process

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

// A recruit is a vifproxy-confine that waits to become a proxy. It has CAP_SETUID, CAP_SETGID and CAP_SETPCAP, which it needs
// to give up its privileges, and reads nothing but one handover.Message.
type recruit struct {
	pid, pidfd int
	socket     int // for what is handed over
	room       confine.Room
}

// enlist starts a recruit, on a thread that lives as long as the Launcher.
func (l *Launcher) enlist() (*recruit, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	room, err := l.options.Sandbox.NewRoom()
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer room.Shut()
	pidfd := -1
	pid, err := l.options.Sandbox.ForkExec(room, pair[1], confine.ProxyScore, tinyproxy.Environment, attributes(&pidfd))
	if err != nil {
		unix.Close(pair[0])
		return nil, errors.Join(fmt.Errorf("start vifproxy-confine: %w", err), room.Remove())
	}
	return &recruit{pid, pidfd, pair[0], room}, nil
}

// handOver makes a recruit become a proxy: the one that waits, or a new one. A recruit that has ended while it waited is
// replaced.
func (l *Launcher) handOver(cell *confine.Cell, uid uint32, argv []string, output int) (*recruit, error) {
	for range 2 {
		select {
		case r := <-l.recruits:
			err := cell.HandOver(r.room, r.socket, uid, output, argv)
			if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
				r.dismiss()
				continue
			}
			return r.handedOver(err)
		default:
		}
	}
	var r *recruit
	var err error
	done := make(chan struct{})
	select {
	case l.forks <- func() { r, err = l.enlist(); close(done) }:
		<-done
	case <-l.quit:
		err = errors.New("launcher closed")
	}
	if err != nil {
		return nil, err
	}
	return r.handedOver(cell.HandOver(r.room, r.socket, uid, output, argv))
}

// handedOver returns a recruit that has become a proxy, or dismisses one that has not.
func (r *recruit) handedOver(err error) (*recruit, error) {
	if err != nil {
		r.dismiss()
		return nil, err
	}
	unix.Close(r.socket)
	return r, nil
}

// dismiss ends a recruit.
func (r *recruit) dismiss() {
	unix.Close(r.socket)
	_ = unix.Kill(r.pid, unix.SIGKILL)
	_, _ = syscall.Wait4(r.pid, nil, 0, nil)
	unix.Close(r.pidfd)
	_ = r.room.Remove() // one that stays is removed by the next daemon
}
