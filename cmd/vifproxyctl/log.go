package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
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

// followInterval is the time between looks at a log that is followed. It is asked for by name each time: proxies, AppVMs and the
// daemon come and go, and the file with them.
const followInterval = 200 * time.Millisecond

// followedLines is how many lines of a log are shown before it is followed, as by tail(1).
const followedLines = 10

func logVerb() verb {
	return verb{
		name: "log", args: "NAME", least: 1, most: 1,
		options: func(f *flag.FlagSet) action {
			var o logOptions
			f.BoolVar(&o.all, "all", false, "also what tinyproxy says at each start, change of rules and end, and its warnings of directives that "+
				"another version of it needs")
			f.BoolVar(&o.follow, "f", false, "")
			f.BoolVar(&o.follow, "follow", false, fmt.Sprintf("go on with what comes, until Ctrl-C; begin with the last %d lines", followedLines))
			f.IntVar(&o.lines, "n", -1, "only the last `LINES`, or as many before those that come")
			return func(c *call) error {
				if o.lines < -1 || given(f, "n") && o.lines < 0 {
					return usagef("-n %d: want a number of lines, such as -n 20", o.lines)
				}
				return runLog(c, o)
			}
		},
		summary: "Show what the proxies of a VM have logged.",
		help: `Control characters are shown as escapes. vifproxyd keeps up to 2 MiB for each VM, less where many
share little memory, until it is restarted.
`,
	}
}

type logOptions struct {
	all, follow bool
	lines       int // -1: all
}

// runLog shows what a VM's proxies said, the older file first.
func runLog(c *call, o logOptions) error {
	path, notRunning, err := logFile(c)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.stdout)
	last := &lastLines{out: out, most: o.lines}
	if o.follow && o.lines < 0 {
		last.most = followedLines
	}
	l := &logReader{path: path, out: out, all: o.all, last: last}
	if err := l.older(); err != nil {
		return err
	}
	err = l.read()
	if l.file != nil && !o.follow {
		l.close() // its last line has no end, maybe
	}
	last.print()
	l.last = nil
	if errors.Is(err, fs.ErrNotExist) && o.follow {
		err = nil // it will come
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && notRunning != nil:
		err = notRunning
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%s has no log yet: its proxy has not run since vifproxyd started (%s)", c.args[0], path)
	}
	if err == nil && o.follow {
		err = l.follow(c.ctx)
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
	name := c.args[0]
	status, err := c.client.Status(c.ctx)
	if gone := (*control.NotRunningError)(nil); errors.As(err, &gone) {
		if parsed, _, bad := rules.ParseFileName(name + ".0.0.0.0"); bad != nil || parsed != name {
			return "", nil, usagef("%q is not a VM name", name)
		}
		return filepath.Join(c.root+defaults.RuntimeDir, name, "log"), gone, nil
	}
	if err != nil {
		return "", nil, err
	}
	if _, err := vmNamed(status, name); err != nil {
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
		case err == nil, len(l.part) > logLineMax:
			l.line()
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return l.out.Flush()
		default:
			return err
		}
	}
}

// logLineMax bounds what is kept of a line. vifproxyd's are shorter; another program's may be in the file as
// well.
const logLineMax = 16 << 10

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
func (l *logReader) follow(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
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
