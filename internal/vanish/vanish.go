// Package vanish tells when files vanish, so that nobody has to look for them while nothing happens. The kernel tells (inotify(7)) when
// an entry of a directory is removed or renamed, and when that becomes of the directory itself, or of a file. It does not tell when a
// directory further up is renamed, or when something is mounted over one.
//
// Concurrency: the methods of a [Watcher] may be called from any goroutine.
package vanish

import (
	"context"
	"encoding/binary"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// dirEvents are what the kernel tells of, of a directory that is no link.
	dirEvents = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW
	// fileEvents are those of one file. A file that somebody has open is only gone when that is closed, but has fewer links at once:
	// IN_ATTRIB.
	fileEvents = unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_DONT_FOLLOW
)

// eventSize is how many bytes of events are read at once. An event has 272 bytes at most.
const eventSize = 4 << 10

// A Watcher collects where something has vanished.
type Watcher struct {
	fd   int
	file *os.File // of fd
	err  error    // why it cannot watch
	news chan struct{}

	mu    sync.Mutex
	paths map[int32]string
	lost  map[string]bool
}

// New returns a Watcher that watches nothing yet. If the kernel has no room for one, Add and Run fail. Close releases it.
func New() *Watcher {
	w := &Watcher{news: make(chan struct{}, 1), paths: map[int32]string{}, lost: map[string]bool{}}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if w.fd, w.err = fd, os.NewSyscallError("inotify_init1", err); err == nil {
		w.file = os.NewFile(uintptr(fd), "inotify")
	}
	return w
}

// Add watches a directory until that is removed. It does not tell what vanished before.
func (w *Watcher) Add(dir string) error { return w.add(dir, dirEvents) }

// AddFile watches one file, whatever happens to others in its directory. The kernel tells before the file has gone from there.
func (w *Watcher) AddFile(path string) error { return w.add(path, fileEvents) }

func (w *Watcher) add(path string, events uint32) error {
	w.mu.Lock() // so the path is known before its events are read
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, events)
	if err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	w.paths[int32(wd)] = path
	return nil
}

// News has a token if there may be something in Lost.
func (w *Watcher) News() <-chan struct{} { return w.news }

// Lost returns the added paths where something may have vanished since the last call. The path "" stands for all.
func (w *Watcher) Lost() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	lost := w.lost
	w.lost = map[string]bool{}
	return lost
}

// Doubt notes that something may have vanished at a path.
func (w *Watcher) Doubt(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doubt(path)
}

func (w *Watcher) doubt(path string) {
	w.lost[path] = true
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// Run reads what the kernel tells until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	if w.file == nil {
		return w.err
	}
	defer context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })()
	buffer := make([]byte, eventSize)
	for {
		n, err := w.file.Read(buffer)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			w.fail(err)
			return err
		}
		w.note(buffer[:n])
	}
}

// fail has Add fail from now on.
func (w *Watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.doubt("")
}

func (w *Watcher) note(events []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		what := binary.NativeEndian.Uint32(events[4:])
		events = events[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])):]
		path, known := w.paths[wd]
		if known || what&unix.IN_Q_OVERFLOW != 0 { // path is "" for the second
			w.doubt(path)
		}
		if what&unix.IN_IGNORED != 0 { // nothing more comes of it
			delete(w.paths, wd)
		}
	}
}

// Close ends watching.
func (w *Watcher) Close() {
	if w.file != nil {
		w.file.Close()
	}
}
