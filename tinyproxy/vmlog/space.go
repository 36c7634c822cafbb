package vmlog

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// fileShare is the part of the runtime directory's file system that the files of all AppVMs may take together. /run is
	// memory: systemd gives it a fifth of the machine's.
	fileShare = 4
	// filesMax is the limit if that file system is a disk.
	filesMax = 256 << 20
	// filesMin is the least that the files may take: enough for a few proxies. No file system is smaller.
	filesMin = 128 << 10
	// logMin is what the log of an AppVM may take, however many AppVMs there are.
	logMin = 32 << 10
	// leftMax is how many AppVMs that have left have logs. The next disposable has another name, and each takes a page and a directory
	// in addition to what is counted.
	leftMax = 64
	// pageSize is the unit that tmpfs counts in.
	pageSize = 4 << 10
)

// ErrNoSpace is the error of a start whose files would take more than those of all AppVMs may.
var ErrNoSpace = errors.New("no room for more files of proxies")

// A Space keeps account of what the files of all AppVMs take in the runtime directory: configurations, rules and logs. Logs
// share half of it. If room is short, the logs of AppVMs that have left go first, then the older logs of others.
type Space struct {
	dir  string // the runtime directory
	root func() *os.Root
	log  *slog.Logger
	most int64 // bytes for all files

	mu     sync.Mutex
	used   int64
	staged map[string]int64 // by directory
	logs   map[string]*logSize
	left   []string // AppVMs with logs and without a proxy, in the sequence in which they left
	full   bool     // it is, and that has been reported
}

// A logSize is what the logs of an AppVM take.
type logSize struct{ now, before int64 }

// NewSpace returns the account of a runtime directory that has no files yet. root returns the directory as it is now.
func NewSpace(dir string, root func() *os.Root, log *slog.Logger) (*Space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, fmt.Errorf("size of the runtime directory: %w", err)
	}
	most := max(min(int64(fs.Blocks)*fs.Bsize/fileShare, filesMax), filesMin)
	return &Space{dir: dir, root: root, log: log, most: most, staged: map[string]int64{}, logs: map[string]*logSize{}}, nil
}

// has reports whether a file is in the runtime directory, where it counts. The template may name another place.
func (s *Space) has(path string) bool { return strings.HasPrefix(path, s.dir+"/") }

// Stage makes room for files of these sizes in a directory. An error wraps ErrNoSpace.
func (s *Space) Stage(dir string, sizes ...int) error {
	var all int64
	for _, n := range sizes {
		all += int64(n+pageSize-1) / pageSize * pageSize
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.take(all) {
		return fmt.Errorf("%w: those of all AppVMs may take %d KiB", ErrNoSpace, s.most>>10)
	}
	s.staged[dir] += all
	return nil
}

// Unstage frees what a directory took.
func (s *Space) Unstage(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= s.staged[dir]
	delete(s.staged, dir)
}

// opened notes that an AppVM has a log of that size.
func (s *Space) opened(vm string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = slices.DeleteFunc(s.left, func(name string) bool { return name == vm })
	l := s.logs[vm]
	if l == nil {
		l = &logSize{}
		s.logs[vm] = l
	}
	s.used += size - l.now
	l.now = size
}

// append reports whether an AppVM's log has room for n more bytes.
func (s *Space) append(vm string, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[vm]
	if l == nil || !s.take(int64(n)) {
		return false
	}
	l.now += int64(n)
	return true
}

// unwritten frees room in an AppVM's log for bytes that could not be written.
func (s *Space) unwritten(vm string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[vm]; l != nil {
		s.used -= int64(n)
		l.now -= int64(n)
	}
}

// rotated notes that the log of an AppVM has become its older log.
func (s *Space) rotated(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.logs[vm]; l != nil {
		s.used -= l.before
		l.now, l.before = 0, l.now
	}
}

// forget notes that an AppVM has left. Its logs stay as long as there is room.
func (s *Space) forget(vm string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[vm] != nil && !slices.Contains(s.left, vm) {
		s.left = append(s.left, vm)
	}
	if len(s.left) > leftMax {
		s.evict()
	}
}

// logBound returns the size at which the log of an AppVM is rotated.
func (s *Space) logBound() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	serving := max(len(s.logs)-len(s.left), 1)
	return max(min(logMax, s.most/int64(4*serving)), logMin) // two files each, of half of all
}

// take counts n more bytes, and removes logs for them if necessary. The caller holds s.mu.
func (s *Space) take(n int64) bool {
	for s.used+n > s.most && s.evict() {
	}
	fits := s.used+n <= s.most
	if !fits && !s.full {
		s.log.Warn("no room for more files of proxies: log lines are dropped, and proxies that need more do not start",
			"bytes", s.most)
	}
	s.full = !fits
	if fits {
		s.used += n
	}
	return fits
}

// evict removes the logs that people need least. It reports whether there were any. The caller holds s.mu.
func (s *Space) evict() bool {
	if len(s.left) > 0 {
		vm := s.left[0]
		s.left = s.left[1:]
		s.remove(vm, "log.1")
		s.remove(vm, "log")
		_ = s.root().Remove(vm) // unless something else is in it
		s.used -= s.logs[vm].now + s.logs[vm].before
		delete(s.logs, vm)
		return true
	}
	largest := ""
	for vm, l := range s.logs {
		if l.before > 0 && (largest == "" || l.before > s.logs[largest].before) {
			largest = vm
		}
	}
	if largest == "" {
		return false
	}
	s.remove(largest, "log.1")
	s.used -= s.logs[largest].before
	s.logs[largest].before = 0
	return true
}

func (s *Space) remove(vm, file string) {
	if err := s.root().Remove(filepath.Join(vm, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Warn("log of a proxy cannot be removed", "vm", vm, "err", err)
	}
}
