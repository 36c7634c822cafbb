package watchfile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mounts is the kernel's list of what is mounted in the mount namespace of this process. It tells when the list changes: what is mounted over
// a directory or a file hides it, which is no event of inotify, and neither is a umount, but for the last one of a file system (Linux 6.18,
// findings/inotify-misses-bind-mounts.sh).
type mounts struct{ file *os.File }

func openMounts() (mounts, error) {
	const path = "/proc/self/mountinfo"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return mounts{}, fmt.Errorf("open %s: %w", path, err)
	}
	return mounts{os.NewFile(uintptr(fd), path)}, nil
}

// follow calls changed after each change, and once or twice when it begins, until ctx ends.
func (m mounts) follow(ctx context.Context, changed func()) error {
	defer context.AfterFunc(ctx, func() { _ = m.file.SetReadDeadline(time.Unix(1, 0)) })()
	conn, err := m.file.SyscallConn()
	if err != nil {
		return err
	}
	// The file can always be read. Go's poller waits for edges, and a change is one. To wait for EPOLLPRI, as proc(5) says, would lose
	// changes, because each poll of the file uses one up (mounts_poll in fs/proc_namespace.c, Linux 6.18,
	// findings/mount-event-ends-when-seen.sh).
	err = conn.Read(func(uintptr) bool {
		changed()
		return false
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// An end is a file or a directory at a path without links.
type end struct {
	path     string
	dev, ino uint64
}

// leadElsewhere reports whether other files are at the places that are watched, or are entries of the directories, than when it was last
// called.
func (r *run) leadElsewhere(watched []target) bool {
	ends := []end{} // not nil, which stands for what is not known
	add := func(path string) {
		if info, err := os.Lstat(path); err == nil {
			stat := info.Sys().(*syscall.Stat_t)
			ends = append(ends, end{path, stat.Dev, stat.Ino})
		}
	}
	for _, t := range watched {
		add(t.path)
		if len(t.dirs) == 0 {
			continue
		}
		entries, _ := os.ReadDir(t.path)
		for _, entry := range entries {
			if t.concerns(entry.Name()) {
				add(filepath.Join(t.path, entry.Name()))
			}
		}
	}
	before := r.ends
	r.ends = ends
	return before == nil || !slices.Equal(before, ends)
}
