// Package lease finds out whether a file is open for writing, and makes writers wait while it is read.
//
// Concurrency: any goroutine may call Take.
package lease

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Take takes a lease on a file that is open for reading, until that is closed. EAGAIN says that the file is open for writing
// somewhere, or mapped (check_conflicting_open in Linux' fs/locks.c). A process that opens it for writing meanwhile waits for the
// fraction of a millisecond that reading takes. The kernel grants a lease to the owner of the file, or with CAP_LEASE
// (fcntl(2)). To become the owner for one call takes CAP_SETUID only.
func Take(file *os.File, info fs.FileInfo) error {
	take := func() error {
		raw, err := file.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		err = raw.Control(func(fd uintptr) { _, failed = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK) })
		return errors.Join(err, failed)
	}
	if err := take(); !errors.Is(err, unix.EACCES) {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, _ := unix.SetfsuidRetUid(int(info.Sys().(*syscall.Stat_t).Uid))
	defer unix.SetfsuidRetUid(before) //nolint:errcheck // always allowed: it is the process's own uid
	return take()
}
