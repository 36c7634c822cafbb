package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"vifproxy/internal/notroot"
)

// publishTimeout is how long a caller waits until the files that tell of a proxy are written: the template may want its pid
// file on a file system that does not answer.
const publishTimeout = time.Second

// errUnanswered is the error of a file system that has not answered within publishTimeout.
var errUnanswered = fmt.Errorf("a file system has not answered for %v", publishTimeout)

// publisher keeps what is published of one VM: the files that tell which of its proxies serves. One goroutine at most writes
// them, and always what is right when it begins, so that a file system that answers late is not left with what was right once.
type publisher struct {
	next      *publication // that the goroutine has not begun; nil if nothing is to be done
	running   bool         // the goroutine
	published *Proxy       // belongs to the goroutine
}

// publication is one turn of a publisher.
type publication struct {
	done chan struct{}
	err  error // written before done is closed
}

// Current records that p serves its VM from now on: RUNTIME/NAME/config and the pid file show it until it
// ends or another proxy is recorded. After an error (a full file system, above all) they show nothing: a pid
// of a process that has ended is another's before long. Call it again then. It waits for a file system for a second at most.
func (l *Launcher) Current(p *Proxy) error {
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

// ended takes a proxy that has ended out of the books and its files away.
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

// publish has the files of a VM tell of its current proxy, or of none. The caller holds mu.
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
	timer := time.NewTimer(publishTimeout)
	defer timer.Stop()
	select {
	case <-t.done:
		return t.err
	case <-timer.C:
		return errUnanswered
	}
}

// replacePublished makes the files tell of p, or of nothing if it is nil.
func (l *Launcher) replacePublished(of *publisher, p *Proxy) error {
	before := of.published
	of.published = nil
	if p == nil {
		if before != nil {
			l.hide(before)
		}
		return nil
	}
	err := l.show(p)
	if err != nil {
		l.hide(p)
	} else {
		of.published = p
	}
	if before != nil && before != p {
		if err != nil {
			l.hide(before)
		} else if before.Spec.Config.PidFile != p.Spec.Config.PidFile {
			before.removePid()
		}
	}
	return err
}

func (l *Launcher) show(p *Proxy) error {
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

// hide takes away what show wrote.
func (l *Launcher) hide(p *Proxy) {
	_ = l.root().Remove(filepath.Join(p.Spec.Name, "config"))
	p.removePid()
	_ = l.root().Remove(filepath.Join(p.Spec.Name, "pid"))
}

// removePid removes the pid file, if it is the one that show wrote.
func (p *Proxy) removePid() {
	if info, err := os.Lstat(p.Spec.Config.PidFile); err == nil && os.SameFile(info, p.pidFile) {
		_ = os.Remove(p.Spec.Config.PidFile)
	}
}

// writePid writes the pid file where the template wants one, as tinyproxy would have done.
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
	tmp := "." + filepath.Base(path) + ".vifproxy"
	_ = dir.Remove(tmp)
	defer func() { _ = dir.Remove(tmp) }() // no room, no half a file
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
