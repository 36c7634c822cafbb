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

	"golang.org/x/sys/unix"

	"vifproxy/internal/notroot"
)

const (
	// filesInterval is how often the daemon looks whether files are missing from the runtime directory.
	filesInterval = 5 * time.Second
	// renewInterval is the shortest time between two renewals of processes whose files were removed. Each renewal leaves an
	// older process with its connections, and an AppVM may have only some of these.
	renewInterval = time.Minute
)

// ErrRemoved is wrapped by the error of a start that fails because the runtime directory was removed and the daemon may not
// make it again. As its unit runs it, it may not: /run belongs to systemd.
var ErrRemoved = errors.New("somebody has removed the runtime directory")

// A runtimeDir is the runtime directory. A person, or a program that cleans up, may remove it or files in it while the daemon
// runs.
type runtimeDir struct {
	path string
	open atomic.Pointer[os.Root] // a start that uses a replaced one fails, and is tried again

	mu       sync.Mutex // held while it is made again
	remade   bool       // since the last renewal
	renewed  time.Time  // when processes were last asked to write their files again
	renewals atomic.Int64
}

// root returns the runtime directory as it is now.
func (l *Launcher) root() *os.Root { return l.dir.open.Load() }

// openRuntimeDir makes the runtime directory if necessary, and refuses one that others can write to.
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
	// Proxies look up their files with their own uids, whatever the umask was.
	if err := os.Chmod(dir, info.Mode().Perm()|0o555); err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	return root, nil
}

// removed reports whether the runtime directory is no longer the one that the Launcher has open. Nothing can be made in a
// directory that was removed (may_create in Linux' fs/namei.c).
func (l *Launcher) removed() bool {
	own, err := l.root().Stat(".")
	if err != nil {
		return false
	}
	now, err := os.Lstat(l.dir.path)
	return errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(own, now)
}

// restore makes the runtime directory again if it was removed. An error wraps ErrRemoved.
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

// KeepFiles looks after the runtime directory until ctx ends. It makes the directory again if it was removed, notices missing
// files of proxies, and removes files of ended proxies that could not be removed before. If the result of a look, or Renewals,
// differs from the look before, it calls told with what is wrong, or nil.
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

// Renewals returns another text than before when proxies have lost their files and new processes are needed to write them.
func (l *Launcher) Renewals() string { return strconv.FormatInt(l.dir.renewals.Load(), 10) }

// renew reports whether there is a new reason for new processes: files of a serving proxy are missing, or the runtime
// directory was made again. It reports true at most once in renewInterval.
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
		// By its path, which takes one call: with hundreds of proxies a look by os.Root, which takes three, is most of what an idle
		// daemon computes.
		if _, err := os.Lstat(filepath.Join(d.path, portDir(p.Spec), "config")); errors.Is(err, unix.ENOENT) && l.loses(p) {
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

// loses notes that the files of a proxy are gone. It reports whether that is new, and the proxy still serves.
func (l *Launcher) loses(p *Proxy) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.current[p.Spec.Name] == p && !p.filesLost
	p.filesLost = p.filesLost || news
	return news
}
