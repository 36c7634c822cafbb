package process

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/internal/backlog"
	"vifproxy/internal/events"
	"vifproxy/internal/notroot"
	"vifproxy/internal/regular"
	"vifproxy/internal/terminal"
)

// Most of what a proxy says is what its AppVM made it say, so all of it is limited: a line, the file, and
// what a VM can add to it in the long run. An AppVM that tries needs half an hour to push out what was
// logged before; a person's browsing fits into the burst many times over.
const (
	lineMax  = 1024    // bytes; tinyproxy itself stops at 799
	logMax   = 1 << 20 // bytes; and as much again in log.1; less where many share little, see space
	logBurst = 256 << 10
	logRate  = 1 << 10 // bytes a second
)

// What waits for the log file of a VM, whose file system may not answer.
const (
	logQueueMax      = 1000
	logQueueBytesMax = 64 << 10
	// flushTimeout is how long the end of a process is kept back for that.
	flushTimeout = 100 * time.Millisecond
)

// vmLog is the log of a VM: all its proxies write to it, and none can stop because of it, nor can what reads their output.
type vmLog struct {
	vm       string
	onDenied func(events.Denial)
	queue    *backlog.Queue // for the file
	space    *space         // nil counts nothing

	// Guarded by launcher.mu.
	wanted bool // a proxy runs, or starts
	ending bool // the queue will close the file

	mu    sync.Mutex
	addr  netip.Addr
	path  string // to write to
	lines *rate.Limiter

	intake *rate.Limiter // what is read of its proxies' output

	// These belong to what the queue calls.
	opened  string      // path of file
	counted bool        // it is one of those that space counts
	file    *os.File    // nil while it cannot be opened
	made    os.FileInfo // of file
	size    int64
}

func newVMLog(vm string, onDenied func(events.Denial), space *space) *vmLog {
	v := &vmLog{vm: vm, onDenied: onDenied, space: space, lines: rate.NewLimiter(logRate, logBurst),
		intake: rate.NewLimiter(readRate, readBurst)}
	v.queue = backlog.New(logQueueMax, logQueueBytesMax, func(n int) error {
		return v.write(fmt.Sprintf("vifproxyd: %d lines dropped here\n", n))
	})
	return v
}

// open makes the log, of the VM with this address now, write to path, from the next line on. A file that cannot be written
// is tried again with every line; the lines meanwhile are dropped.
func (v *vmLog) open(addr netip.Addr, path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addr, v.path = addr, path
}

// problem returns why the log cannot be written; nil if it can.
func (v *vmLog) problem() error {
	err := v.queue.Problem()
	if err == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return fmt.Errorf("%s of %s cannot be written, its lines are dropped: %w", v.path, v.vm, err)
}

// denied tells of a request that one of its proxies did not serve.
func (v *vmLog) denied(d events.Denial) {
	if v.onDenied == nil {
		return
	}
	v.mu.Lock()
	d.VM, d.IP = v.vm, v.addr
	v.mu.Unlock()
	v.onDenied(d)
}

// line logs the line within its limits.
func (v *vmLog) line(raw []byte) {
	text := terminal.Escape(string(raw)) + "\n"
	if !v.lines.AllowN(time.Now(), len(text)) {
		v.queue.Drop()
		return
	}
	v.queue.Put(len(text), false, func() error { return v.write(text) })
}

// write appends text, after making room.
func (v *vmLog) write(text string) error {
	v.mu.Lock()
	path := v.path
	v.mu.Unlock()
	if v.file != nil && v.opened != path {
		v.end()
	}
	if v.file != nil && v.removed() {
		v.shut()
	}
	if v.file != nil && v.size+int64(len(text)) > v.bound() {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
		v.shut()
		if v.counted {
			v.space.rotated(v.vm)
		}
	}
	if v.file == nil {
		if err := v.reopen(path); err != nil {
			return err
		}
	}
	if v.counted && !v.space.append(v.vm, len(text)) {
		return errNoSpace
	}
	n, err := v.file.WriteString(text)
	v.size += int64(n)
	if v.counted {
		v.space.unwritten(v.vm, len(text)-n)
	}
	if err != nil {
		v.shut() // it may be another one's by now, or gone
	}
	return err
}

// reopen opens the file, to append. It follows no link and writes to nothing but a regular file: the path
// is the template's, and may lie where others can write.
func (v *vmLog) reopen(path string) error {
	file, info, err := regular.Open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	switch {
	case errors.Is(err, regular.ErrNotRegular):
		return fmt.Errorf("log file %w (remove it)", err)
	case err != nil:
		return notroot.WithRemedy(err, `write LogFile "{log_file}", or nothing, into the template "config", or `+drop("LogsDirectory="))
	}
	v.file, v.made, v.opened, v.size = file, info, path, info.Size()
	if v.counted = v.space != nil && v.space.has(path); v.counted {
		v.space.opened(v.vm, v.size)
	}
	return nil
}

// removed reports whether the file is not at its path any more: somebody has removed it, or the directory around it.
func (v *vmLog) removed() bool {
	now, err := os.Lstat(v.opened)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, v.made)
}

// bound returns how large the file may become.
func (v *vmLog) bound() int64 {
	if v.counted {
		return v.space.logBound()
	}
	return logMax
}

// end closes the file of a VM that has no proxy any more.
func (v *vmLog) end() {
	v.shut()
	if v.counted {
		v.space.forget(v.vm)
	}
}

func (v *vmLog) shut() {
	if v.file != nil {
		v.file.Close()
		v.file = nil
	}
}

// flush waits until what was said is written, but not long: then the end of a process is told when its log has its last
// words.
func (v *vmLog) flush(timeout time.Duration) {
	if v.queue.Problem() != nil {
		return
	}
	done := make(chan struct{})
	v.queue.Then(func() { close(done) })
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-v.queue.Done():
	case <-timer.C:
	}
}

// close writes what is left, and waits for that, but not longer than it is told.
func (v *vmLog) close(timeout time.Duration) {
	v.queue.Close(timeout)
	select {
	case <-v.queue.Done():
		v.end()
	default: // the file system does not answer
	}
}

// logOf returns the log of a VM that a proxy is about to start for. The caller holds mu.
func (l *Launcher) logOf(name string) *vmLog {
	log := l.logs[name]
	if log == nil {
		log = newVMLog(name, l.options.OnDenied, l.space)
		log.queue.OnChange(func() {
			if f := l.onLogProblem.Load(); f != nil {
				(*f)()
			}
		})
		l.logs[name] = log
	}
	log.wanted = true
	return log
}

// OnLogProblem has f called when LogProblem may return something else. f must not wait.
func (l *Launcher) OnLogProblem(f func()) { l.onLogProblem.Store(&f) }

// LogProblem returns which logs cannot be written, and why; nil if all can.
func (l *Launcher) LogProblem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first error
	n := 0
	for _, name := range slices.Sorted(maps.Keys(l.logs)) {
		if err := l.logs[name].problem(); err != nil {
			if n++; first == nil {
				first = err
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more)", first, n-1)
	}
	return first
}

// Forget is told that a VM has no proxy any more and none is wanted: its log is closed. The log file stays,
// for a person to read, until the daemon stops or the VM is back. A file system that does not answer keeps its log in the
// books, so that there is never a second one for the same VM.
func (l *Launcher) Forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.logs[name]
	if log == nil {
		return
	}
	log.wanted = false
	if log.ending {
		return
	}
	log.ending = true
	log.queue.Then(func() {
		log.end()
		l.mu.Lock()
		defer l.mu.Unlock()
		log.ending = false
		if log.wanted {
			return
		}
		delete(l.logs, name)
		log.queue.Abandon()
		if f := l.onLogProblem.Load(); f != nil {
			(*f)() // what could not be written is nobody's problem any more
		}
	})
}
