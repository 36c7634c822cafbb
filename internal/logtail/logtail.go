// Package logtail prints the log of an AppVM's proxies. The file may be renamed to log.1, emptied or removed while it is read.
//
// Concurrency: Print may be called from any goroutine. It starts none.
package logtail

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"vifproxy/internal/regular"
	"vifproxy/internal/terminal"
)

// followInterval is the time between looks at a log that is followed. It is asked for by name each time: proxies, AppVMs and the
// daemon come and go, and the file with them.
const followInterval = 200 * time.Millisecond

// FollowedLines is how many lines of a log are printed before it is followed, as by tail(1).
const FollowedLines = 10

// Options say what is printed of a log.
type Options struct {
	All    bool // also what tinyproxy says at each start, change of rules and end
	Follow bool // go on with what comes, until the context ends
	Lines  int  // how many at first; -1 is all, or FollowedLines if more follow
}

// Print prints the log at path, an older file of it first. Without a log the error is fs.ErrNotExist, unless one is waited for.
func Print(ctx context.Context, w io.Writer, path string, o Options) error {
	out := bufio.NewWriter(w)
	last := &lastLines{out: out, most: o.Lines}
	if o.Follow && o.Lines < 0 {
		last.most = FollowedLines
	}
	l := &logReader{path: path, out: out, all: o.All, last: last}
	if err := l.older(); err != nil {
		return err
	}
	err := l.read()
	if l.file != nil && !o.Follow {
		l.close() // its last line has no end, maybe
	}
	last.print()
	l.last = nil
	if errors.Is(err, fs.ErrNotExist) && o.Follow {
		err = nil // it will come
	}
	if err == nil && o.Follow {
		err = l.follow(ctx)
	}
	return errors.Join(err, l.end())
}

// noise matches what tinyproxy 1.10 and 1.11 always log at each start, change of rules and end: src/main.c, and the
// directives that one of the versions needs and the other warns of (src/conf.c).
var noise = regexp.MustCompile(`^(WARNING: obsolete config item on line [0-9]+|` +
	`WARNING .*\]: line [0-9]+: deprecated option \S+, use \S+|(NOTICE|INFO|CONNECT) .*\]: (Initializing tinyproxy \.\.\.|` +
	`Reloading config file( finished)?|Shutting down\.|Starting main loop\. Accepting connections\.))$`)

// lastLines keeps the last lines of a log: most of them, or all if most is -1.
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

// A logReader reads a log that may be renamed to log.1, or go away, while it is read.
type logReader struct {
	path string
	out  *bufio.Writer
	file *os.File // nil: none is open
	in   *bufio.Reader
	part []byte // of a line whose end is not written yet

	all  bool       // noise too
	last *lastLines // where lines go that are there already; nil: to out
}

// older prints what was renamed to make room.
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

// read prints what there is, and leaves the file open.
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
		case err == nil, len(l.part) > LineMax:
			l.line()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return l.out.Flush()
		default:
			return err
		}
	}
}

// LineMax is how much of a line is printed as one. The daemon's lines are shorter; another program may write longer ones.
const LineMax = 16 << 10

// line prints a line as text that does nothing to a terminal. What vifproxyd writes is such text already.
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

// follow prints what comes until ctx ends.
func (l *logReader) follow(ctx context.Context) error {
	tick := time.NewTicker(followInterval)
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

// current reports whether the open file still is the log, and has not been emptied since it was read.
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
