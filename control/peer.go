package control

import (
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A peer is the process that connected, as the kernel has recorded it at its connect(2).
type peer struct {
	pid     int32
	uid     uint32
	allowed bool
}

// peerOf asks the kernel who connected. Root, our own user and members of the group gid are allowed; if gid is -1 there is no group.
func peerOf(conn *net.UnixConn, gid int) (peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	err = withFD(raw, func(fd int) error {
		cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return fmt.Errorf("SO_PEERCRED: %w", err)
		}
		own := cred.Uid == 0 || cred.Uid == uint32(os.Geteuid())
		p = peer{cred.Pid, cred.Uid, own || gid >= 0 && cred.Gid == uint32(gid)}
		if !p.allowed && gid >= 0 {
			groups, err := peerGroups(fd)
			if err != nil {
				return fmt.Errorf("SO_PEERGROUPS: %w", err)
			}
			p.allowed = slices.Contains(groups, uint32(gid))
		}
		return nil
	})
	return p, err
}

// peerGroups returns the supplementary groups that the peer's process had. /etc/group may say something else. x/sys has no call for
// SO_PEERGROUPS, an array of gid_t.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 65536) // NGROUPS_MAX
	size := uint32(len(groups)) * 4
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return groups[:size/4], nil
}

// withFD runs f with the file descriptor of raw.
func withFD(raw syscall.RawConn, f func(fd int) error) error {
	var err error
	if outer := raw.Control(func(fd uintptr) { err = f(int(fd)) }); outer != nil {
		return outer
	}
	return err
}
