// Package vmlog writes the logs of AppVMs' proxies, within limits: of a line, of a file, of what is added in the long run, and of what the
// files of all AppVMs take.
//
// Concurrency: any goroutine may call the methods of a [Log] and of a [Space]. Those of a Log wait for no file system, but for Close and
// Flush, which wait as long as they are told to. End is for functions that Then calls. An [Output] belongs to the goroutine that reads what a
// process says.
package vmlog

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
	logMax   = 1 << 20 // bytes; and as much again in log.1; less if many share little, see Space
	logBurst = 256 << 10
	logRate  = 1 << 10 // bytes a second
)

// These are the bounds of what waits for the log file of a VM, whose file system may not answer.
const (
	queueMax      = 1000
	queueBytesMax = 64 << 10
)

// Listeners are told what proxies log. Each may be nil.
type Listeners struct {
	Denied   func(events.Denial) // a request was not served
	Visited  func(events.Visit)  // a connection was made
	Admitted func(events.Visit)  // the list has let a request pass
}

// A Log is the log of a VM, to which all its proxies write. It holds up neither a proxy nor the goroutine that reads their
// output.
type Log struct {
	vm    string
	tell  Listeners
	queue *backlog.Queue // for the file
	space *Space         // nil if nothing is counted

	mu    sync.Mutex
	addr  netip.Addr
	path  string // to write to
	lines *rate.Limiter

	// Only functions that the queue calls use these.
	opened  string      // path of file
	counted bool        // space counts it
	file    *os.File    // nil while it cannot be opened
	made    os.FileInfo // of file
	size    int64
}

// New returns the log of a VM that has no file yet. If space is nil, nothing is counted.
func New(vm string, tell Listeners, space *Space) *Log {
	v := &Log{vm: vm, tell: tell, space: space, lines: rate.NewLimiter(logRate, logBurst)}
	v.queue = backlog.New(queueMax, queueBytesMax, func(n int) error {
		return v.write(fmt.Sprintf("vifproxyd: %d lines dropped here\n", n))
	})
	return v
}

// Open sets the path that the log is written to from the next line on, and the address that the VM has now. If the file cannot
// be written, every line tries again; lines in between are dropped.
func (v *Log) Open(addr netip.Addr, path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addr, v.path = addr, path
}

// Problem returns why the log cannot be written, or nil.
func (v *Log) Problem() error {
	err := v.queue.Problem()
	if err == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return fmt.Errorf("%s of %s cannot be written, its lines are dropped: %w", v.path, v.vm, err)
}

// Denied reports a request that one of its proxies did not serve.
func (v *Log) Denied(d events.Denial) {
	if v.tell.Denied == nil {
		return
	}
	d.VM, d.IP = v.vm, v.address()
	v.tell.Denied(d)
}

// Visited reports a connection that one of its proxies has made.
func (v *Log) Visited(host string, port uint16) {
	if v.tell.Visited != nil {
		v.tell.Visited(events.Visit{IP: v.address(), Host: host, Port: port})
	}
}

// Admitted reports a request that the list lets pass.
func (v *Log) Admitted(host string) {
	if v.tell.Admitted != nil {
		v.tell.Admitted(events.Visit{IP: v.address(), Host: host})
	}
}

// address returns the address that the VM has now.
func (v *Log) address() netip.Addr {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.addr
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
func (v *Log) add(b *batch, raw []byte) {
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
func (v *Log) put(b *batch) {
	if text := string(b.text); b.lines > 0 {
		v.queue.PutSeveral(b.lines, len(text), func() error { return v.write(text) })
		b.text, b.lines = b.text[:0], 0
	}
}

// write appends text, after making room.
func (v *Log) write(text string) error {
	v.mu.Lock()
	path := v.path
	v.mu.Unlock()
	if v.file != nil && v.opened != path {
		v.End()
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
		return ErrNoSpace
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
func (v *Log) reopen(path string) error {
	file, info, err := regular.Open(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	switch {
	case errors.Is(err, regular.ErrNotRegular):
		return fmt.Errorf("log file %w (remove it)", err)
	case err != nil:
		return notroot.WithRemedy(err, `write LogFile "{log_file}", or nothing, into the template "config", or `+notroot.AddToUnit("LogsDirectory="))
	}
	v.file, v.made, v.opened, v.size = file, info, path, info.Size()
	if v.counted = v.space != nil && v.space.has(path); v.counted {
		v.space.opened(v.vm, v.size)
	}
	return nil
}

// removed reports whether the file is no longer at its path, because somebody has removed it or the directory around it.
func (v *Log) removed() bool {
	now, err := os.Lstat(v.opened)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, v.made)
}

// bound returns the size that the file may reach.
func (v *Log) bound() int64 {
	if v.counted {
		return v.space.logBound()
	}
	return logMax
}

// End closes the file of a VM that no longer has a proxy.
func (v *Log) End() {
	v.shut()
	if v.counted {
		v.space.forget(v.vm)
	}
}

func (v *Log) shut() {
	if v.file != nil {
		v.file.Close()
		v.file = nil
	}
}

// Flush waits briefly until everything is written. So when the end of a process is reported, its log has its last lines.
func (v *Log) Flush(timeout time.Duration) {
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

// Close writes what is left, and waits for that until the timeout.
func (v *Log) Close(timeout time.Duration) {
	v.queue.Close(timeout)
	select {
	case <-v.queue.Done():
		v.End()
	default: // the file system does not answer
	}
}

// OnChange sets the function to call when Problem may return something else. f must not wait.
func (v *Log) OnChange(f func()) { v.queue.OnChange(f) }

// Then calls f when all lines until now are written, or dropped, from the goroutine that writes.
func (v *Log) Then(f func()) { v.queue.Then(f) }

// Abandon drops all that waits, and ends the goroutine that writes.
func (v *Log) Abandon() { v.queue.Abandon() }
