package rules

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/rules/flaws"
)

// Half a list is a list, and half a template may open what the whole one closes. So a daemon believes a file only when
// nobody has it open for writing, and, where that cannot be known or its last line has no end, when it has been quiet.

// quiet is how old the last change of a file must be whose end is in doubt. A writer that opens it again and again is
// faster.
const quiet = time.Second

// readClosed is ReadFile for files that are complete: nobody writes them, and nobody begins to while they are read. The
// *Error of another is Unsettled; again is when it may be settled, 0 if its being closed will be an event.
func readClosed(path string) (content []byte, again time.Duration, err error) {
	leased := false
	content, changed, err := readAfter(path, func(file *os.File) error {
		switch err := leaseAs(file); {
		case errors.Is(err, unix.EAGAIN):
			again = quiet // should no event come, as where another machine writes
			return &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
				Text: "is open for writing: what it said before stays in force", Remedy: "close it in the program that writes it"}}
		default:
			leased = err == nil
			return nil
		}
	})
	if err != nil {
		return nil, again, err
	}
	age := time.Since(changed)
	unended := len(content) > 0 && content[len(content)-1] != '\n'
	if (unended || !leased) && 0 <= age && age < quiet { // the time of the file may be anything: mtime(7)
		return nil, quiet - age, &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
			Text: "has just changed, and may be incomplete: what it said before stays in force", Remedy: fmt.Sprintf("wait %v", quiet)}}
	}
	return content, 0, nil
}

// leaseAs takes a lease on a file that is open for reading, until that is closed: EAGAIN says that it is open for writing
// somewhere, also by a mapping (check_conflicting_open in Linux' fs/locks.c). Who opens it for writing meanwhile waits, for
// the fraction of a millisecond that reading takes. The kernel lets the owner of the file do that, or CAP_LEASE
// (fcntl(2)); to be the owner to the file system for one call takes no more than CAP_SETUID.
func leaseAs(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	lease := func() error {
		raw, err := file.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		err = raw.Control(func(fd uintptr) { _, failed = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK) })
		return errors.Join(err, failed)
	}
	if err = lease(); !errors.Is(err, unix.EACCES) {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, _ := unix.SetfsuidRetUid(int(info.Sys().(*syscall.Stat_t).Uid))
	defer unix.SetfsuidRetUid(before) //nolint:errcheck // always allowed: it is the process's own uid
	return lease()
}
