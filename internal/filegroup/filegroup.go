// Package filegroup makes files that belong to a group which their maker is no member of.
//
// chown(2) would do it, with CAP_CHOWN, by which whoever has it owns the machine. The kernel gives a new file the
// file-system gid of the thread that makes it (inode_init_owner in Linux' fs/inode.c), and setfsgid(2) takes no more
// than CAP_SETGID, which a daemon that starts processes under other gids has anyway. So there is no moment either
// at which the file exists and belongs to another group.
package filegroup

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// As runs f, whose new files, directories and sockets belong to the group gid. That is for the calling goroutine
// alone, and not for what f starts.
func As(gid int, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The call has no error: it returns what was before (setfsgid(2)), and without a privilege changes nothing.
	before, _ := unix.SetfsgidRetGid(gid)
	defer unix.SetfsgidRetGid(before) //nolint:errcheck // always allowed: it is the process's own gid
	if now, _ := unix.SetfsgidRetGid(gid); now != gid {
		return fmt.Errorf("make files of group %d: %w (run as root, or with CAP_SETGID)", gid, unix.EPERM)
	}
	return f()
}
