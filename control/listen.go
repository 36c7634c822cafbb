package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/beat"
	"vifproxy/internal/filegroup"
	"vifproxy/internal/notroot"
	"vifproxy/internal/unanswered"
	"vifproxy/internal/vanish"
)

// A Listener is the daemon's end of the control socket. Until Close, no other vifproxyd uses this socket. The daemon calls Close when
// it has cleaned up.
type Listener struct {
	socket *net.UnixListener
	lock   *os.File
	gid    int // of the group that may use the socket besides root and the daemon's own user; -1 if none
	path   string
	group  string
	made   fs.FileInfo // the socket as bind(2) made it
	served bool        // Serve has ended, and has closed the socket
}

// Listen makes the control socket at path, which is absolute. The socket has mode 0600, or with a group that group and 0660. If its
// directory is missing, Listen makes that with 0755, like everything in /run that others may look at. Listen replaces the socket of a
// daemon that was killed. An error names what is in the way: another vifproxyd, for a second at least, something that is not a socket, a
// directory that others can write to, an unknown group.
func Listen(path, group string) (*Listener, error) {
	l, err := listen(path, group)
	if err != nil {
		return nil, fmt.Errorf("make control socket %s: %w", path, err)
	}
	return l, nil
}

// ownDirectory is what to do about a path that the daemon may not write to.
const ownDirectory = "choose a path in a directory of its own"

func listen(path, group string) (_ *Listener, err error) {
	l := &Listener{gid: -1, path: path, group: group}
	if group != "" {
		if l.gid, err = groupID(group); err != nil {
			return nil, err
		}
	}
	// Package net takes a leading "@" for an abstract socket, which has no mode. No absolute path begins so.
	if !filepath.IsAbs(path) {
		return nil, errors.New("its path must be absolute")
	}
	if most := len(unix.RawSockaddrUnix{}.Path) - 1; len(path) > most {
		return nil, fmt.Errorf("its path has %d bytes, unix(7) allows %d: choose a shorter one", len(path), most)
	}
	if err := prepareDirectory(filepath.Dir(path)); err != nil {
		return nil, notroot.WithRemedy(err, ownDirectory)
	}
	over := make(chan struct{})
	defer unanswered.AfterFunc(patience, func() { close(over) }).Stop()
	err = retry(over, func() (err error) {
		l.lock, err = lock(path + ".lock")
		return err
	})
	if err != nil {
		return nil, notroot.WithRemedy(err, ownDirectory)
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := retry(over, func() error { return removeStale(path) }); err != nil {
		return nil, err
	}
	// bind(2) never follows a symlink at path: it would fail. And the mode it gives to a socket is the one
	// that the unbound socket had (unix_bind_bsd in net/unix/af_unix.c, Linux 6.18,
	// findings/socket-mode-is-set-before-bind.sh), so that there is no moment at which others could connect, and
	// no umask to change under the feet of other threads.
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return withFD(raw, func(fd int) error { return unix.Fchmod(fd, 0o600) })
	}}
	bind := func() error {
		bound, err := private.Listen(context.Background(), "unix", path)
		if err == nil {
			l.socket = bound.(*net.UnixListener)
			l.made, err = os.Lstat(path)
		}
		return err
	}
	if group == "" {
		return l, bind()
	}
	if err := filegroup.As(l.gid, bind); err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o660)
}

// patience is how long Listen waits for somebody else's lock and socket. They may be those of a daemon that was killed just after a fork(2):
// the child has all its descriptors, until it executes its program.
const patience = time.Second

// taken is the error about what somebody else has.
type taken struct{ error }

// retry calls f until it does not find something taken, or the time is over.
func retry(over <-chan struct{}, f func() error) error {
	for {
		err := f()
		if !errors.As(err, new(taken)) {
			return err
		}
		select {
		case <-over:
			return err
		case <-time.After(patience / 100):
		}
	}
}

// Close removes the socket and lets another daemon have it. After Serve it has only the lock to give up.
func (l *Listener) Close() error {
	var err error
	if l.socket != nil {
		if err = l.socket.Close(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	return errors.Join(err, l.lock.Close())
}

// ErrRemoved is the error of a socket that is not at its path any more, because somebody has removed it or the directory around it.
var ErrRemoved = errors.New("the control socket was removed")

// removed reports whether the socket is not at its path any more. If it cannot look, it reports false.
func (l *Listener) removed() bool {
	now, err := os.Lstat(l.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, l.made)
}

// vanishes waits until the socket is removed, and reports true, or until ctx ends.
func (l *Listener) vanishes(ctx context.Context, limits limits) (removed bool) {
	watcher := vanish.New()
	defer watcher.Close()
	_ = watcher.AddFile(l.path) // if it fails, there are the looks without it
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { _ = watcher.Run(ctx) })
	next := time.Now().Add(limits.told)
	for {
		select {
		case <-time.After(time.Until(next)):
			if l.removed() {
				return true
			}
			next = beat.Next(time.Now(), limits.look)
		case <-watcher.News():
			if soon := time.Now().Add(limits.told); soon.Before(next) {
				next = soon
			}
		case <-ctx.Done():
			return false
		}
	}
}

// Again makes the socket again if Serve has ended since it was made, for whatever reason. If its directory is missing and the daemon may
// make it, Again makes that too.
func (l *Listener) Again() error {
	if !l.served {
		return nil
	}
	if err := l.lock.Close(); err != nil && !errors.Is(err, fs.ErrClosed) { // it may be the lock of a directory that is no more
		return err
	}
	next, err := Listen(l.path, l.group)
	if err != nil {
		return fmt.Errorf("%w (nobody can reach vifproxyd meanwhile, AppVMs are served: `systemctl restart vifproxyd` makes"+
			" its directory again)", err)
	}
	*l = *next
	return nil
}

func groupID(name string) (int, error) {
	group, err := user.LookupGroup(name)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no group %q: create it (groupadd --system) or name another one", name)
	}
	if err != nil {
		return 0, fmt.Errorf("look up group %q: %w", name, err)
	}
	return strconv.Atoi(group.Gid)
}

// prepareDirectory makes dir, and fails if others can replace what is in it.
func prepareDirectory(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		err = os.Chmod(dir, 0o755) // whatever the umask: a group must be able to get in
	case errors.Is(err, fs.ErrExist):
		err = nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if mode := info.Mode().Perm(); mode&0o022 != 0 || owner != 0 && int(owner) != os.Geteuid() {
		return fmt.Errorf("%s (uid %d, mode %04o) can be written by others than root and uid %d, who could replace"+
			" the socket: choose another directory, or chown root and chmod go-w it", dir, owner, mode, os.Geteuid())
	}
	return nil
}

// lock takes the lock file at path. The kernel drops the lock with the process, however that ends. The file stays: a daemon that
// removed it could remove the file that the next one has just locked.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, taken{fmt.Errorf("another vifproxyd is running (it holds %s): stop it first", path)}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// removeStale removes a socket on which no program listens any more. The caller holds the lock, so no other vifproxyd interferes.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("something else is there (%s): remove it, or choose another path", info.Mode())
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return taken{errors.New("another program listens there: stop it first, or choose another path")}
	}
	return os.Remove(path)
}
