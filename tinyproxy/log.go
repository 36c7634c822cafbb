package tinyproxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"
)

// Most of what a proxy says is what its AppVM made it say, so all of it is limited: a line, the file, and
// what a VM can add to it in the long run. An AppVM that tries needs half an hour to push out what was
// logged before; a person's browsing fits into the burst many times over.
const (
	maxLine  = 1024    // bytes; tinyproxy itself stops at 799
	maxLog   = 1 << 20 // bytes; and as much again in log.1; less where many share little, see space
	logBurst = 256 << 10
	logRate  = 1 << 10 // bytes a second
)

// vmLog is the log of a VM: all its proxies write to it, and none can stop because of it.
type vmLog struct {
	vm        string
	addr      netip.Addr
	log       *slog.Logger
	onRefused func(Refused)
	space     *space // nil counts nothing

	mu      sync.Mutex
	path    string
	counted bool     // the file is one of those that space counts
	file    *os.File // nil while it cannot be opened
	size    int64
	lines   *rate.Limiter
	dropped int
	ill     bool // trouble with the file has been reported
}

func newVMLog(vm string, log *slog.Logger, onRefused func(Refused), space *space) *vmLog {
	return &vmLog{vm: vm, log: log, onRefused: onRefused, space: space,
		lines: rate.NewLimiter(logRate, logBurst)}
}

// open makes the log, of the VM with this address now, write to path. A file that cannot be written is reported once, to slog,
// and tried again with every line; the lines meanwhile are dropped.
func (v *vmLog) open(addr netip.Addr, path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addr = addr
	if v.path == path && v.file != nil {
		return
	}
	v.shut()
	v.path, v.ill, v.counted = path, false, v.space != nil && v.space.has(path)
	v.report(v.reopen())
}

// reopen opens the file, to append. It follows no link and writes to nothing but a regular file: the path
// is the template's, and may lie where others can write.
func (v *vmLog) reopen() error {
	// Nonblocking, since opening a FIFO would wait for its reader.
	const flags = os.O_WRONLY | os.O_APPEND | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	file, err := os.OpenFile(v.path, flags, 0o640)
	if err != nil {
		return withRemedy(err, `write LogFile "{log_file}", or nothing, into the template, or `+drop("LogsDirectory="))
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("log file %s is not a regular file (remove it)", v.path)
	}
	if err != nil {
		file.Close()
		return err
	}
	v.file, v.size = file, info.Size()
	if v.counted {
		v.space.opened(v.vm, v.size)
	}
	return nil
}

// report tells of trouble with the file, once until it is well again.
func (v *vmLog) report(err error) {
	if err != nil && !v.ill {
		v.log.Warn("log of a proxy cannot be written, its lines are dropped", "vm", v.vm, "err", err)
	}
	v.ill = err != nil
}

// line reports a refused request, and logs the line within its limits.
func (v *vmLog) line(raw []byte) {
	if host, ok := refusedHost(raw); ok {
		v.refuse(printable([]byte(host)))
	}
	text := printable(raw) + "\n"
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.lines.AllowN(time.Now(), len(text)) {
		v.dropped++
		return
	}
	v.tellDropped()
	v.write(text)
}

func (v *vmLog) refuse(host string) {
	if v.onRefused == nil {
		return
	}
	v.mu.Lock()
	addr := v.addr
	v.mu.Unlock()
	v.onRefused(Refused{VM: v.vm, Addr: addr, Host: host})
}

func (v *vmLog) tellDropped() {
	if n := v.dropped; n > 0 {
		v.dropped = 0
		v.write(fmt.Sprintf("vifproxyd: %d lines dropped here\n", n))
	}
}

// write appends text, after making room. The caller holds v.mu.
func (v *vmLog) write(text string) {
	var err error
	if v.file != nil && v.size+int64(len(text)) > v.bound() {
		if err = os.Rename(v.path, v.path+".1"); err == nil {
			v.shut()
			if v.counted {
				v.space.rotated(v.vm)
			}
		}
	}
	if v.file == nil && err == nil {
		err = v.reopen()
	}
	if err == nil && v.counted && !v.space.append(v.vm, len(text)) {
		v.dropped++ // that there is no room is told for all logs at once
		return
	}
	if err == nil {
		var n int
		n, err = v.file.WriteString(text)
		v.size += int64(n)
		if v.counted {
			v.space.unwritten(v.vm, len(text)-n)
		}
	}
	if err != nil {
		v.dropped++
	}
	v.report(err)
}

// bound returns how large the file may become.
func (v *vmLog) bound() int64 {
	if v.counted {
		return v.space.logBound()
	}
	return maxLog
}

func (v *vmLog) shut() {
	if v.file != nil {
		v.file.Close()
		v.file = nil
	}
}

// close is called when no proxy of the VM runs any more.
func (v *vmLog) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tellDropped()
	v.shut()
	if v.counted {
		v.space.forget(v.vm)
	}
}

// printable shows a line as text that does nothing to a terminal.
func printable(raw []byte) string {
	if !bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r > '~' }) {
		return string(raw) // nearly every line
	}
	var b strings.Builder
	for len(raw) > 0 {
		r, n := utf8.DecodeRune(raw)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, raw[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		raw = raw[n:]
	}
	return b.String()
}

// output is what one process says, cut into lines for the log of its VM.
type output struct {
	log  *vmLog
	said tail
	part []byte // of a line that has not ended yet
	cut  bool   // that line was too long and is in the log: what is left of it is dropped
}

// Write takes all that comes, whatever it is: tinyproxy would block on a full pipe.
func (o *output) Write(chunk []byte) (int, error) {
	for rest := chunk; len(rest) > 0; {
		piece, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		if !o.cut {
			o.part = append(o.part, piece[:min(len(piece), maxLine-len(o.part))]...)
			if o.cut = len(o.part) == maxLine; ended || o.cut {
				o.line(bytes.TrimSuffix(o.part, []byte("\r")))
			}
		}
		o.cut = o.cut && !ended
	}
	if len(o.part) == 0 {
		o.part = nil // nothing is kept for a process that says nothing
	}
	return len(chunk), nil
}

// end is called when nothing more can come.
func (o *output) end() {
	if len(o.part) > 0 {
		o.line(o.part)
	}
}

func (o *output) line(raw []byte) {
	o.said.add(raw)
	o.log.line(raw)
	o.part = o.part[:0]
}

// tail remembers the last lines of a process, for the message about its end.
type tail struct {
	mu   sync.Mutex
	last []string
}

func (t *tail) add(line []byte) {
	const keep = 5
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == keep {
		t.last = append(t.last[:0], t.last[1:]...)
	}
	t.last = append(t.last, string(line))
}

func (t *tail) lines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.last)
}
