package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vifproxy/internal/notroot"
	"vifproxy/internal/regular"
	"vifproxy/internal/unanswered"
)

// publishTimeout is how long a caller waits until the files that show a proxy are written. The template may want its pid file
// on a file system that does not answer.
const publishTimeout = time.Second

// errUnanswered is the error of a file system that has not answered within publishTimeout.
var errUnanswered = fmt.Errorf("a file system has not answered for %v", publishTimeout)

// A publisher keeps the files of one VM that show which of its proxies serves. At most one goroutine writes them, and it
// always writes what is right when it begins. So a file system that answers late does not end up with outdated files.
type publisher struct {
	next      *publication // that the goroutine has not begun; nil for none
	running   bool         // there is a goroutine
	published *Proxy       // belongs to the goroutine
}

// A publication is one turn of a publisher.
type publication struct {
	done chan struct{}
	err  error // written before done is closed
}

// SetCurrent records that p serves its VM from now on. RUNTIME/NAME/config and the pid file show it until it ends or another
// proxy is recorded. After an error, such as a full file system, they show nothing, because the number of a process that has
// ended soon belongs to another one. The caller then calls SetCurrent again. It waits at most a second for a file system.
func (l *Launcher) SetCurrent(p *Proxy) error {
	l.mu.Lock()
	if !l.proxies[p] {
		l.mu.Unlock()
		return fmt.Errorf("proxy for %s: ended already", p.Spec.Name)
	}
	l.current[p.Spec.Name] = p
	turn := l.publish(p.Spec.Name)
	l.mu.Unlock()
	return turn.wait()
}

// ended removes an ended proxy from the books, and its files.
func (l *Launcher) ended(p *Proxy) {
	l.mu.Lock()
	delete(l.proxies, p)
	var turn *publication
	if name := p.Spec.Name; l.current[name] == p {
		delete(l.current, name)
		turn = l.publish(name)
	}
	l.mu.Unlock()
	l.unstage(p.Spec)
	if turn != nil {
		if err := turn.wait(); errors.Is(err, errUnanswered) {
			l.options.Log.Warn("the pid file of an ended proxy may stay", "vm", p.Spec.Name, "err", err)
		}
	}
}

// publish starts to make the files of a VM show its current proxy, or none. The caller holds mu.
func (l *Launcher) publish(name string) *publication {
	of := l.publishers[name]
	if of == nil {
		of = &publisher{}
		l.publishers[name] = of
	}
	if of.next == nil {
		of.next = &publication{done: make(chan struct{})}
	}
	if !of.running {
		of.running = true
		go l.keepPublished(name, of)
	}
	return of.next
}

func (l *Launcher) keepPublished(name string, of *publisher) {
	for {
		l.mu.Lock()
		turn, p := of.next, l.current[name]
		if of.next = nil; turn == nil {
			of.running = false
			if of.published == nil {
				delete(l.publishers, name)
			}
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		turn.err = l.replacePublished(of, p)
		close(turn.done)
	}
}

func (t *publication) wait() error {
	if !unanswered.Closed(t.done, publishTimeout) {
		return errUnanswered
	}
	return t.err
}

// replacePublished makes the files show p, or nothing if it is nil.
func (l *Launcher) replacePublished(of *publisher, p *Proxy) error {
	before := of.published
	of.published = nil
	if p == nil {
		if before != nil {
			l.unlink(before)
		}
		return nil
	}
	l.guard(p)
	err := l.link(p)
	if err != nil {
		l.unlink(p)
	} else {
		of.published = p
	}
	if before != nil && before != p {
		if err != nil {
			l.unlink(before)
		} else if before.Spec.Config.PidFile != p.Spec.Config.PidFile {
			before.removePid()
		}
	}
	return err
}

func (l *Launcher) link(p *Proxy) error {
	config := filepath.Join(strconv.Itoa(int(p.Spec.Listen.Port())), "config")
	if err := replaceLink(l.root(), config, filepath.Join(p.Spec.Name, "config")); err != nil {
		return fmt.Errorf("show the configuration of %s: %w", p.Spec.Name, err)
	}
	if err := l.writePid(p); err != nil {
		return fmt.Errorf("write the pid file of %s: %w", p.Spec.Name,
			notroot.WithRemedy(err, `write PidFile "{pid_file}", or nothing, into the template "config"`))
	}
	return nil
}

// unlink removes what link wrote.
func (l *Launcher) unlink(p *Proxy) {
	_ = l.root().Remove(filepath.Join(p.Spec.Name, "config"))
	p.removePid()
	_ = l.root().Remove(filepath.Join(p.Spec.Name, "pid"))
}

// removePid removes the pid file, if link wrote it.
func (p *Proxy) removePid() {
	if info, err := os.Lstat(p.Spec.Config.PidFile); err == nil && os.SameFile(info, p.pidFile) {
		_ = os.Remove(p.Spec.Config.PidFile)
	}
}

// writePid writes the pid file if the template wants one, as tinyproxy would.
func (l *Launcher) writePid(p *Proxy) error {
	path := p.Spec.Config.PidFile
	if path == "" {
		return nil
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if there, err := dir.Lstat(filepath.Base(path)); err == nil && there.Mode().Type()&^fs.ModeSymlink != 0 { // such as /dev/null
		return fmt.Errorf("%s is %w (leave PidFile out of the template \"config\")", path, regular.ErrNotRegular)
	}
	tmp := "." + filepath.Base(path) + ".vifproxy"
	_ = dir.Remove(tmp)
	defer func() { _ = dir.Remove(tmp) }() // a full file system must not be left with half a file
	if err := writeFile(dir, tmp, fmt.Sprintf("%d\n", p.PID), p.Spec.UID); err != nil {
		return err
	}
	if err := dir.Rename(tmp, filepath.Base(path)); err != nil {
		return err
	}
	if p.pidFile, err = dir.Lstat(filepath.Base(path)); err != nil {
		return err
	}
	return l.pointTo(p.Spec.Name, "pid", path)
}
