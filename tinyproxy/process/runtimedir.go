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
	"vifproxy/internal/vanish"
)

const (
	// filesDelay is the time from an event of the kernel until the daemon looks which files are missing, because an rm -r goes on.
	filesDelay = time.Second
	// filesInterval is how often it looks while the kernel cannot tell, or something is wrong.
	filesInterval = 5 * time.Second
	// slowFilesInterval is how often it looks for what the kernel does not tell: something was mounted over the files.
	slowFilesInterval = 5 * time.Minute
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

	vanish   *vanish.Watcher // of directories of serving proxies, and of path
	mu       sync.Mutex      // held while it is made again
	remade   bool            // since the last renewal
	renewed  time.Time       // when processes were last asked to write their files again
	renewals atomic.Int64
}

// guard has the kernel tell what vanishes of the files of a proxy that begins to serve.
func (l *Launcher) guard(p *Proxy) {
	if dir := l.files(p); l.dir.vanish.Add(dir) != nil || lacking(dir) {
		l.dir.vanish.Doubt("")
	}
}

// guardAll has the kernel tell what vanishes, and reports whether it does so for all that is there.
func (l *Launcher) guardAll() bool {
	all := l.dir.vanish.Add(l.dir.path) == nil
	for _, p := range l.serving() {
		all = (l.dir.vanish.Add(l.files(p)) == nil || lacking(l.files(p))) && all
	}
	return all
}

func (l *Launcher) serving() []*Proxy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.current))
}

// files returns the directory of a proxy's files, which RUNTIME/NAME/config shows if it serves.
func (l *Launcher) files(p *Proxy) string { return filepath.Join(l.dir.path, portDir(p.Spec)) }

// lacking reports whether the files in a proxy's directory are gone.
func lacking(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, "config"))
	return errors.Is(err, unix.ENOENT)
}

// root returns the runtime directory as it is now.
func (l *Launcher) root() *os.Root { return l.dir.open.Load() }

// openRuntimeDir makes the runtime directory if necessary, and refuses one that others can write to.
func openRuntimeDir(dir string) (*os.Root, error) {
	remedy := "name another with --runtime-dir"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make runtime directory: %w (%s)", notroot.WithRemedy(err, notroot.AddToUnit("RuntimeDirectory=")), remedy)
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
	d.vanish.Doubt("") // the kernel has to be told of the new one
	l.options.Log.Warn("somebody has removed the runtime directory: it was made again", "dir", d.path)
	return nil
}

// KeepFiles looks after the runtime directory until ctx ends. It makes the directory again if it was removed, notices missing
// files of proxies, and removes files of ended proxies that could not be removed before. If the result of a look, or Renewals,
// differs from the look before, it calls told with what is wrong, or nil.
func (l *Launcher) KeepFiles(ctx context.Context, told func(error)) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { _ = l.dir.vanish.Run(ctx) })
	suspects := map[string]bool{} // directories of which files may be missing; "" stands for all
	due := time.Now().Add(filesInterval)
	timer := time.NewTimer(filesInterval)
	defer timer.Stop()
	var last string
	for {
		select {
		case <-l.dir.vanish.News():
			if soon := time.Now().Add(filesDelay); soon.Before(due) {
				due = soon
				timer.Reset(filesDelay)
			}
			continue
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		next, err, renewed := l.look(suspects)
		if text := fmt.Sprint(err); text != last && (err != nil || last != "") || renewed {
			last = text
			told(err)
		}
		due = time.Now().Add(next)
		timer.Reset(next)
	}
}

// look looks after the runtime directory once: at the suspects of before and those that the kernel has told of, or at all proxies if
// there are none. It leaves the suspects that have to wait, and returns when to look again although the kernel tells nothing.
func (l *Launcher) look(suspects map[string]bool) (next time.Duration, err error, renewed bool) {
	maps.Copy(suspects, l.dir.vanish.Lost())
	next = slowFilesInterval
	removed := l.removeLeft()
	err = l.restore()
	if len(suspects) == 0 || suspects[""] || suspects[l.dir.path] {
		suspects[""] = true
		if !l.guardAll() { // before the look, so nothing vanishes between the two
			next = filesInterval
		}
	}
	renewed = err == nil && l.renew(time.Now(), suspects)
	if err != nil || !removed || len(suspects) > 0 {
		next = filesInterval
	}
	return next, err, renewed
}

// Renewals returns another text than before when proxies have lost their files and new processes are needed to write them.
func (l *Launcher) Renewals() string { return strconv.FormatInt(l.dir.renewals.Load(), 10) }

// renew reports whether there is a new reason for new processes: files of a serving proxy are missing, or the runtime
// directory was made again. It reports true at most once in renewInterval. If it has looked, it clears what it was to look at.
func (l *Launcher) renew(now time.Time, suspects map[string]bool) bool {
	d := l.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.renewed.IsZero() && now.Sub(d.renewed) < renewInterval {
		return false
	}
	bare := 0
	for _, p := range l.serving() {
		if dir := l.files(p); (suspects[""] || suspects[dir]) && lacking(dir) && l.loses(p) {
			bare++
		}
	}
	clear(suspects)
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
