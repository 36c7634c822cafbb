package process

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
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

// An AppVM decides most of what its proxy says, so everything is limited: a line, the file, and what is added in the long run.
// An AppVM needs half an hour to push out what was logged before. A person's browsing fits into the burst many times over.
const (
	lineMax  = 1024    // bytes; tinyproxy itself stops at 799
	logMax   = 1 << 20 // bytes; and as much again in log.1; less if many share little, see space
	logBurst = 256 << 10
	logRate  = 1 << 10 // bytes a second
)

// What may wait for the log file of a VM, whose file system may not answer.
const (
	logQueueMax      = 1000
	logQueueBytesMax = 64 << 10
	// flushTimeout is how long the end of a process waits for its last lines to be written.
	flushTimeout = 100 * time.Millisecond
)

// A vmLog is the log of a VM, to which all its proxies write. It holds up neither a proxy nor the goroutine that reads their
// output.
type vmLog struct {
	vm       string
	onDenied func(events.Denial)
	onVisit  func(events.Visit)
	onAdmit  func(events.Visit)
	queue    *backlog.Queue // for the file
	space    *space         // nil if nothing is counted

	// Guarded by launcher.mu.
	wanted bool // a proxy runs, or starts
	ending bool // the queue will close the file

	mu    sync.Mutex
	addr  netip.Addr
	path  string // to write to
	lines *rate.Limiter

	intake *rate.Limiter // limits how much is read of its proxies' output

	// Only functions that the queue calls use these.
	opened  string      // path of file
	counted bool        // space counts it
	file    *os.File    // nil while it cannot be opened
	made    os.FileInfo // of file
	size    int64
}

func newVMLog(vm string, onDenied func(events.Denial), onVisit, onAdmit func(events.Visit), space *space) *vmLog {
	v := &vmLog{vm: vm, onDenied: onDenied, onVisit: onVisit, onAdmit: onAdmit, space: space, lines: rate.NewLimiter(logRate, logBurst),
		intake: rate.NewLimiter(readRate, readBurst)}
	v.queue = backlog.New(logQueueMax, logQueueBytesMax, func(n int) error {
		return v.write(fmt.Sprintf("vifproxyd: %d lines dropped here\n", n))
	})
	return v
}

// open sets the path that the log is written to from the next line on, and the address that the VM has now. If the file cannot
// be written, every line tries again; lines in between are dropped.
func (v *vmLog) open(addr netip.Addr, path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addr, v.path = addr, path
}

// problem returns why the log cannot be written, or nil.
func (v *vmLog) problem() error {
	err := v.queue.Problem()
	if err == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return fmt.Errorf("%s of %s cannot be written, its lines are dropped: %w", v.path, v.vm, err)
}

// denied reports a request that one of its proxies did not serve.
func (v *vmLog) denied(d events.Denial) {
	if v.onDenied == nil {
		return
	}
	v.mu.Lock()
	d.VM, d.IP = v.vm, v.addr
	v.mu.Unlock()
	v.onDenied(d)
}

// visited reports a connection that one of its proxies has made.
func (v *vmLog) visited(host string, port uint16) {
	v.tell(v.onVisit, events.Visit{Host: host, Port: port})
}

// admitted reports a request that the list lets pass.
func (v *vmLog) admitted(host string) { v.tell(v.onAdmit, events.Visit{Host: host}) }

// tell calls f, which may be nil, with the address that the VM has now.
func (v *vmLog) tell(f func(events.Visit), visit events.Visit) {
	if f == nil {
		return
	}
	v.mu.Lock()
	visit.IP = v.addr
	v.mu.Unlock()
	f(visit)
}

// A batch is lines that are written to the log at once. A write of each would take more CPU time than all else that the daemon does for a
// request.
type batch struct {
	text  []byte
	lines int
}

// batchMax is how many bytes are written at once, unless a line alone has more.
const batchMax = 4 << 10

// add adds a line within the limits to a batch.
func (v *vmLog) add(b *batch, raw []byte) {
	now := time.Now()
	text := ""
	if v.lines.TokensAt(now) > float64(len(raw)) { // it may be a flood, of which no line is worth a look
		text = terminal.Escape(string(raw))
	}
	if text == "" && len(raw) > 0 || !v.lines.AllowN(now, len(text)+1) {
		v.put(b)
		v.queue.Drop()
		return
	}
	if len(b.text)+len(text) >= batchMax {
		v.put(b)
	}
	b.text = append(append(b.text, text...), '\n')
	b.lines++
}

// put has a batch written, and empties it.
func (v *vmLog) put(b *batch) {
	if text := string(b.text); b.lines > 0 {
		v.queue.PutSeveral(b.lines, len(text), func() error { return v.write(text) })
		b.text, b.lines = b.text[:0], 0
	}
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
		v.shut() // it may be another file by now, or gone
	}
	return err
}

// reopen opens the file for appending. It follows no link, and accepts nothing but a regular file: the template names the
// path, which may be in a directory where others can write.
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

// removed reports whether the file is no longer at its path, because somebody has removed it or the directory around it.
func (v *vmLog) removed() bool {
	now, err := os.Lstat(v.opened)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, v.made)
}

// bound returns the size that the file may reach.
func (v *vmLog) bound() int64 {
	if v.counted {
		return v.space.logBound()
	}
	return logMax
}

// end closes the file of a VM that no longer has a proxy.
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

// flush waits briefly until everything is written. So when the end of a process is reported, its log has its last lines.
func (v *vmLog) flush(timeout time.Duration) {
	if v.queue.Problem() != nil {
		return
	}
	done := make(chan struct{})
	v.queue.Then(func() { close(done) })
	select {
	case <-done:
	case <-v.queue.Done():
	case <-time.After(timeout):
	}
}

// close writes what is left, and waits for that until the timeout.
func (v *vmLog) close(timeout time.Duration) {
	v.queue.Close(timeout)
	select {
	case <-v.queue.Done():
		v.end()
	default: // the file system does not answer
	}
}

// logOf returns the log of a VM whose proxy is about to start. The caller holds mu.
func (l *Launcher) logOf(name string) *vmLog {
	log := l.logs[name]
	if log == nil {
		log = newVMLog(name, l.options.OnDenied, l.options.OnVisit, l.options.OnAdmit, l.space)
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

// OnLogProblem sets the function to call when LogProblem may return something else. f must not wait.
func (l *Launcher) OnLogProblem(f func()) { l.onLogProblem.Store(&f) }

// LogProblem returns which logs cannot be written and why, or nil.
func (l *Launcher) LogProblem() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first error // by name
	var named string
	n := 0
	for name, log := range l.logs {
		if err := log.problem(); err != nil {
			if n++; first == nil || name < named {
				first, named = err, name
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more)", first, n-1)
	}
	return first
}

// CloseLog closes the log of a VM that has no proxy and needs none. The file stays for people to read, until the daemon stops
// or the VM is back. If the file system does not answer, the log stays in the books, so there is never a second one for the
// same VM.
func (l *Launcher) CloseLog(name string) {
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
			(*f)() // what could not be written no longer matters
		}
	})
}
