package tinyproxy

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Judge says which filter lines compile, and what those match that package rules/match does not know exactly. It asks a real
// tinyproxy, because only the C library that tinyproxy was linked with knows how it reads every expression. For each question it
// starts a new process. That process lives for milliseconds, as nobody, on its own loopback address, with no file on the disk. Its
// upstream is an address where nobody listens, so no request leaves the machine and no name is looked up.
type Judge struct {
	Binary string
	Filter Filter // how lines are read; DefaultDeny does not change what they match
	// ConnectPorts are the lines of a template that say to which ports CONNECT may go, see ConnectPorts.
	ConnectPorts []string
}

// A BadPattern is the error of a Judge about a line that does not compile.
type BadPattern struct {
	Line int // index into the lines; -1 if tinyproxy does not say
	Text string
}

func (e *BadPattern) Error() string { return fmt.Sprintf("bad regex %q", e.Text) }

const (
	// questionTimeout is for one process from start to end.
	questionTimeout = 10 * time.Second
	// outputTimeout is how long a process that has ended may have its output kept open by others.
	outputTimeout = time.Second
	// The delay between looks whether a process listens.
	listenDelayMin = 300 * time.Microsecond
	listenDelayMax = 20 * time.Millisecond
	// statusLineMax is how many bytes are read of the status line of an answer.
	statusLineMax = 1024
)

// ConnectPorts returns the lines of a configuration, as ParseConfig makes it, that decide to which ports CONNECT may go.
func ConnectPorts(text string) (lines []string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if name, _ := directive(line); name == "connectport" {
			lines = append(lines, line)
		}
	}
	return lines
}

// PortAllowed reports whether the configuration lets a request pass as far as its port is concerned.
func (j Judge) PortAllowed(ctx context.Context, r Request) (bool, error) {
	refused, err := j.ask(ctx, nil, []Request{r}, j.ConnectPorts)
	return err == nil && !refused[0], err
}

// Any returns for each request whether any of the lines matches it.
func (j Judge) Any(ctx context.Context, lines []string, requests []Request) ([]bool, error) {
	if len(lines) == 0 || len(requests) == 0 {
		return make([]bool, len(requests)), nil
	}
	refused, err := j.ask(ctx, lines, requests, nil)
	for i := range refused {
		refused[i] = !refused[i] // under default deny
	}
	return refused, err
}

// Matches returns for each request the indexes of the first lines, most at most, that match it. It halves the list: with n
// lines and one match it takes about 2 log2(n) processes.
func (j Judge) Matches(ctx context.Context, lines []string, requests []Request, most int) ([][]int, error) {
	found := make([][]int, len(requests))
	var search func(first int, lines []string, open []int) error
	search = func(first int, lines []string, open []int) error {
		var asked []Request
		var which []int
		for _, i := range open {
			if len(found[i]) < most {
				asked, which = append(asked, requests[i]), append(which, i)
			}
		}
		hits, err := j.Any(ctx, lines, asked)
		if err != nil {
			return err
		}
		var hit []int
		for k, i := range which {
			if hits[k] {
				hit = append(hit, i)
			}
		}
		switch {
		case len(hit) == 0:
			return nil
		case len(lines) == 1:
			for _, i := range hit {
				found[i] = append(found[i], first)
			}
			return nil
		}
		half := len(lines) / 2
		if err := search(first, lines[:half], hit); err != nil {
			return err
		}
		return search(first+half, lines[half:], hit)
	}
	all := make([]int, len(requests))
	for i := range all {
		all[i] = i
	}
	return found, search(0, lines, all)
}

// directives returns the lines of a configuration that make tinyproxy read lines as f says. It uses FilterExtended, because
// 1.10 does not know FilterType.
func (f Filter) directives() string {
	var b strings.Builder
	if f.Extended && !f.Fnmatch {
		b.WriteString("FilterExtended Yes\n")
	}
	if f.Fnmatch {
		b.WriteString("FilterType fnmatch\n")
	}
	if f.CaseSensitive {
		b.WriteString("FilterCaseSensitive Yes\n")
	}
	if f.URLs {
		b.WriteString("FilterURLs Yes\n")
	}
	return b.String()
}

// A BadConfig is the error of a Judge about a configuration that tinyproxy refuses.
type BadConfig struct {
	Line int    // from 1; 0 if tinyproxy does not say
	Said string // what it said, if that names no line
}

func (e *BadConfig) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("tinyproxy does not understand line %d", e.Line)
	}
	return "tinyproxy refuses it" + e.Said
}

// Takes reports whether tinyproxy accepts a configuration, as ParseConfig returns it; a *BadConfig says that it does not. The
// process reads the configuration and ends before it listens, because the port that it gets is taken.
func (j Judge) Takes(ctx context.Context, text string) error {
	return onThreadWithoutCaps(func() error { return j.takes(ctx, text) })
}

func (j Judge) takes(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	taken, at, err := reserve()
	if err != nil {
		return fmt.Errorf("ask tinyproxy: %w", err)
	}
	defer unix.Close(taken)
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch name, arg := directive(line); {
		case name == "listen" && listenArg.MatchString(arg):
			line = "Listen " + at.Addr().String()
		case name == "port" && portArg.MatchString(arg):
			line = fmt.Sprintf("Port %d", at.Port())
		}
		lines = append(lines, line)
	}
	config, err := memoryFile(strings.Join(lines, "\n") + "\n")
	if err != nil {
		return fmt.Errorf("ask tinyproxy: %w", err)
	}
	defer config.Close()
	cmd, said := j.command(ctx, []*os.File{config})
	err = cmd.Run()
	exit := (*exec.ExitError)(nil)
	switch {
	case !errors.As(err, &exit):
		return fmt.Errorf("ask tinyproxy: %w", cmp.Or(err, errors.New("it ended with status 0")))
	case exit.ExitCode() != ExitConfig:
		return nil // it came as far as what is not the configuration's
	}
	last := strings.Split(strings.TrimSpace(said.String()), "\n")
	for _, line := range last {
		if n, ok := SyntaxErrorAt(line); ok {
			return &BadConfig{Line: n}
		}
	}
	return &BadConfig{Said: Quoted(last[max(0, len(last)-3):])}
}

// Correct arguments. Others are left for tinyproxy to refuse.
var (
	listenArg = regexp.MustCompile(`^[ \t]+[0-9a-fA-F:.]+[ \t]*$`)
	portArg   = regexp.MustCompile(`^[ \t]+[0-9]+[ \t]*$`)
)

// ReadStatus reads the status line of an answer.
func ReadStatus(conn io.Reader) (int, error) {
	answer, err := bufio.NewReader(io.LimitReader(conn, statusLineMax)).ReadString('\n')
	words := strings.Fields(answer)
	if len(words) < 2 {
		return 0, fmt.Errorf("answered %q: %w", answer, err)
	}
	return strconv.Atoi(words[1])
}

// 1.10 does not say the line.
var complaint = regexp.MustCompile(`Bad regex in [^:\n]*: (?:line ([0-9]+) - )?(.*)`)

func badPatternIn(lines []string, said string) error {
	m := complaint.FindStringSubmatch(said)
	if m == nil {
		return fmt.Errorf("tinyproxy refuses the lines%s", Quoted(strings.Split(said, "\n")))
	}
	n, err := strconv.Atoi(m[1])
	if n--; err != nil || n < 0 || n >= len(lines) {
		n = -1
	}
	return &BadPattern{Line: n, Text: m[2]}
}
