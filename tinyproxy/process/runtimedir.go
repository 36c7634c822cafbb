package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"vifproxy/internal/notroot"

	"golang.org/x/sys/unix"
)

const (
	// filesInterval is how often the daemon looks whether somebody has removed files from the runtime directory.
	filesInterval = 2 * time.Second
	// renewInterval is how soon it has new processes write files again that were removed again: each takes the place of one that
	// keeps its connections, of which an AppVM may have some only.
	renewInterval = time.Minute
)

// ErrRemoved is wrapped by the error of a start that fails because somebody has removed the runtime directory and the daemon
// may not make it again. By its unit it may not: /run is systemd's.
var ErrRemoved = errors.New("somebody has removed the runtime directory")

// runtimeDir is the runtime directory. A person, or a program that cleans up, may remove it under a daemon that runs, or some of
// the files in it.
type runtimeDir struct {
	path string
	open atomic.Pointer[os.Root] // whoever uses one that was replaced meanwhile fails, and is tried again

	mu       sync.Mutex // for one attempt at a time to make it again
	remade   bool       // since the last renewal
	renewed  time.Time  // when processes were last asked to write their files again
	renewals atomic.Int64
}

// root is the runtime directory as it is now.
func (l *Launcher) root() *os.Root { return l.dir.open.Load() }

// openRuntimeDir makes the runtime directory if need be and refuses one that others can write to.
func openRuntimeDir(dir string) (*os.Root, error) {
	remedy := "name another with --runtime-dir"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make runtime directory: %w (%s)", notroot.WithRemedy(err, drop("RuntimeDirectory=")), remedy)
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("runtime directory: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("runtime directory %s is not a directory (remove it, or %s)", dir, remedy)
	case info.Mode().Perm()&0o022 != 0 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("runtime directory %s: others can write to it (chown it to uid %d and chmod 755 it, or %s)",
			dir, os.Geteuid(), remedy)
	}
	// Proxies look up their files with a uid of their own, whatever the umask was.
	if err := os.Chmod(dir, info.Mode().Perm()|0o555); err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	return root, nil
}

// removed reports whether the runtime directory is not the one that the Launcher has open: where that is gone, nothing can be
// made in it (may_create in Linux' fs/namei.c).
func (l *Launcher) removed() bool {
	own, err := l.root().Stat(".")
	if err != nil {
		return false
	}
	now, err := os.Lstat(l.dir.path)
	return errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(own, now)
}

// restore makes the runtime directory again if somebody has removed it. An error wraps ErrRemoved.
func (l *Launcher) restore() error {
	d := l.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if !l.removed() {
		return nil
	}
	err := os.MkdirAll(d.path, 0o755)
	var root *os.Root
	if err == nil {
		root, err = openRuntimeDir(d.path)
	}
	if err != nil {
		return fmt.Errorf("%w, and no proxy can start: %w (`systemctl restart vifproxyd` makes it again)", ErrRemoved, err)
	}
	d.open.Store(root) // the collector closes the old one, which others may be using
	d.remade = true
	l.options.Log.Warn("somebody has removed the runtime directory: it was made again", "dir", d.path)
	return nil
}

// KeepFiles makes the runtime directory again when somebody has removed it, notices where files of proxies are gone, and removes
// files of ended proxies that could not be removed before, until ctx ends. After each look it calls told with what is wrong, nil if nothing is, if that or Renewals has changed.
func (l *Launcher) KeepFiles(ctx context.Context, told func(error)) {
	tick := time.NewTicker(filesInterval)
	defer tick.Stop()
	var last string
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		l.removeLeft()
		err := l.restore()
		renewed := err == nil && l.renew(time.Now())
		if text := fmt.Sprint(err); text != last && (err != nil || last != "") || renewed {
			last = text
			told(err)
		}
	}
}

// Renewals changes when proxies have lost their files, so that new processes are wanted, which write theirs.
func (l *Launcher) Renewals() string { return strconv.FormatInt(l.dir.renewals.Load(), 10) }

// renew reports whether there is a new reason for new processes: files of one that serves are gone, or the runtime directory was
// made again. It does so once in renewInterval at most.
func (l *Launcher) renew(now time.Time) bool {
	d := l.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.renewed.IsZero() && now.Sub(d.renewed) < renewInterval {
		return false
	}
	l.mu.Lock()
	serving := slices.Collect(maps.Values(l.current))
	l.mu.Unlock()
	bare := 0
	for _, p := range serving {
		if _, err := l.root().Lstat(filepath.Join(portDir(p.Spec), "config")); errors.Is(err, unix.ENOENT) && l.loses(p) {
			bare++
		}
	}
	if bare == 0 && !d.remade {
		return false
	}
	d.remade, d.renewed = false, now
	d.renewals.Add(1)
	if bare > 0 {
		l.options.Log.Warn("somebody has removed files of proxies that serve: new ones take over", "count", bare)
	}
	return true
}

// loses notes that the files of a proxy are gone. It reports whether that is news, and not because it has ended.
func (l *Launcher) loses(p *Proxy) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.current[p.Spec.Name] == p && !p.filesLost
	p.filesLost = p.filesLost || news
	return news
}
