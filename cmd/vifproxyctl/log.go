package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/regular"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

const (
	// glance is how often a followed log is looked at. It is asked for by name each time: proxies, AppVMs and
	// the daemon come and go, and the file with them.
	glance = 200 * time.Millisecond
)

// followed is how many lines there are at first of a log that is followed, as tail(1) has it.
const followed = 10

// showLog is the verb log: what a VM's proxies said, the older file first.
func showLog(c *call) error {
	path, notRunning, err := logFile(c)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.stdout)
	last := &lastLines{out: out, most: c.lines}
	if c.follow && c.lines < 0 {
		last.most = followed
	}
	l := &logReader{path: path, out: out, all: c.all, last: last}
	if err := l.older(); err != nil {
		return err
	}
	err = l.read()
	if l.file != nil && !c.follow {
		l.close() // its last line has no end, maybe
	}
	last.print()
	l.last = nil
	if errors.Is(err, fs.ErrNotExist) && c.follow {
		err = nil // it will come
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && notRunning != nil:
		err = notRunning
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%s has no log yet: its proxy has not run since vifproxyd started (%s)", c.names[0], path)
	}
	if err == nil && c.follow {
		err = l.follow()
	}
	return errors.Join(err, l.end())
}

// noise is what tinyproxy 1.10 and 1.11 log at each start, change of rules and end, whatever happens: src/main.c, and the
// directives that one of the versions needs and the other warns of (src/conf.c).
var noise = regexp.MustCompile(`^(WARNING: obsolete config item on line [0-9]+|` +
	`WARNING .*\]: line [0-9]+: deprecated option \S+, use \S+|(NOTICE|INFO|CONNECT) .*\]: (Initializing tinyproxy \.\.\.|` +
	`Reloading config file( finished)?|Shutting down\.|Starting main loop\. Accepting connections\.))$`)

// lastLines keeps the last lines of a log; most is how many, or -1 for all.
type lastLines struct {
	out   *bufio.Writer
	most  int
	lines []string
}

func (l *lastLines) add(line string) {
	switch {
	case l.most < 0:
		fmt.Fprintln(l.out, line) // an error comes back from Flush
	case l.most > 0:
		l.lines = append(l.lines[max(0, len(l.lines)+1-l.most):], line)
	}
}

func (l *lastLines) print() {
	for _, line := range l.lines {
		fmt.Fprintln(l.out, line)
	}
}

// logFile returns where the log of the named VM is. Without a daemon it may still be there, in the default place; then
// notRunning says so.
func logFile(c *call) (path string, notRunning error, err error) {
	name := c.names[0]
	status, err := control.NewClient(c.socket).Status(context.Background())
	if gone := (*control.NotRunningError)(nil); errors.As(err, &gone) {
		if parsed, _, bad := rules.ParseFileName(name + ".0.0.0.0"); bad != nil || parsed != name {
			return "", nil, usagef("%q is not a VM name", name)
		}
		return filepath.Join(c.root+defaults.RuntimeDir, name, "log"), gone, nil
	}
	if err != nil {
		return "", nil, err
	}
	if _, err := pick(status, name); err != nil {
		return "", nil, err
	}
	return filepath.Join(status.Setup.RuntimeDir, name, "log"), nil, nil
}

// logReader reads a log that may be renamed to log.1, or go away, while it is read.
type logReader struct {
	path string
	out  *bufio.Writer
	file *os.File // nil: none is open
	in   *bufio.Reader
	part []byte // of a line whose end is not written yet

	all  bool       // noise too
	last *lastLines // where lines go that are there already; nil: to out
}

// older shows what was renamed to make room.
func (l *logReader) older() error {
	path := l.path
	if target, err := filepath.EvalSymlinks(path); err == nil { // the template has it elsewhere
		path = target
	}
	older := &logReader{path: path + ".1", out: l.out, all: l.all, last: l.last}
	if err := older.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return older.end()
}

// read shows what there is, and leaves the file open.
func (l *logReader) read() error {
	if l.file == nil {
		file, _, err := regular.Open(l.path, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		l.file, l.in = file, bufio.NewReader(file)
	}
	for {
		piece, err := l.in.ReadSlice('\n')
		l.part = append(l.part, piece...)
		switch {
		case err == nil, len(l.part) > maxLogLine:
			l.line()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return l.out.Flush()
		default:
			return err
		}
	}
}

// maxLogLine bounds what is kept of a line. vifproxyd's are shorter; another program's may be in the file as
// well.
const maxLogLine = 16 << 10

// line shows a line as text that does nothing to a terminal. What vifproxyd writes is so already.
func (l *logReader) line() {
	text := strings.TrimSuffix(string(l.part), "\n")
	if quoted := terminal.Quote(text); quoted != text {
		text = quoted[1 : len(quoted)-1]
	}
	switch {
	case !l.all && noise.MatchString(text):
	case l.last != nil:
		l.last.add(text)
	default:
		fmt.Fprintln(l.out, text) // an error comes back from Flush
	}
	l.part = l.part[:0]
}

// follow shows what comes, until it is interrupted.
func (l *logReader) follow() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		moved := l.file != nil && !l.current() // before the read: what was written until then is in the old file
		if err := l.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if moved {
			l.close()
		}
	}
}

// current tells whether the open file still is the log, and has not been emptied since it was read.
func (l *logReader) current() bool {
	open, err1 := l.file.Stat()
	named, err2 := os.Stat(l.path)
	position, err3 := l.file.Seek(0, io.SeekCurrent)
	return err1 == nil && err2 == nil && err3 == nil && os.SameFile(open, named) && position <= named.Size()
}

func (l *logReader) close() {
	if len(l.part) > 0 {
		l.line()
	}
	l.file.Close()
	l.file = nil
}

func (l *logReader) end() error {
	if l.file != nil {
		l.close()
	}
	return l.out.Flush()
}
