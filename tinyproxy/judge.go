package tinyproxy

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/capability"
	"vifproxy/internal/sockdiag"
)

// A Judge says what filter lines match. It asks a real tinyproxy, for each answer a new one: the C library that
// tinyproxy was linked with is the only authority on regexes. That process lives for milliseconds, on a loopback
// address of its own, as nobody, without a file on the disk; what it would let through goes to an address where
// nobody listens, so that no request ever leaves the machine and no name is looked up.
type Judge struct {
	Binary string
	Filter Filter // how lines are read; DefaultDeny does not change what they match
	// ConnectPorts are the lines of a template that say to which ports CONNECT may go, see ConnectPorts.
	ConnectPorts []string
}

// BadPattern is the error of a Judge about a line that does not compile.
type BadPattern struct {
	Line int // index into the lines; -1 if tinyproxy does not tell
	Text string
}

func (e *BadPattern) Error() string { return fmt.Sprintf("bad regex %q", e.Text) }

const (
	// questionBound is for one process from start to end.
	questionBound = 10 * time.Second
	// outputTimeout is how long others may keep the output of a process that has ended.
	outputTimeout = time.Second
	// Between looks whether a process listens, first and at most.
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

// Any reports for each request whether any of the lines matches it.
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

// Matches returns for each request the indexes of the first lines, most at most, that match it. It halves: with n
// lines and one match it asks about 2 log2(n) processes.
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

// directives are those of a configuration that make tinyproxy read lines as f says. FilterExtended and not
// FilterType, which 1.10 does not know.
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

// BadConfig is the error of a Judge about a configuration that tinyproxy does not take.
type BadConfig struct {
	Line int    // from 1; 0 if tinyproxy does not tell
	Said string // what it said, if it does not tell the line
}

func (e *BadConfig) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("tinyproxy does not understand line %d", e.Line)
	}
	return "tinyproxy refuses it" + e.Said
}

// Takes asks whether tinyproxy takes a configuration, as ParseConfig returns it: a *BadConfig says that it does not. The
// process reads it, and ends before it listens, since it is given a port that somebody has.
func (j Judge) Takes(ctx context.Context, text string) error {
	return onBareThread(func() error { return j.takes(ctx, text) })
}

func (j Judge) takes(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, questionBound)
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

// Arguments that are right: others are left for tinyproxy to refuse.
var (
	listenArg = regexp.MustCompile(`^[ \t]+[0-9a-fA-F:.]+[ \t]*$`)
	portArg   = regexp.MustCompile(`^[ \t]+[0-9]+[ \t]*$`)
)

// command is a tinyproxy that reads its configuration from the first of files, and the buffer that it speaks to.
func (j Judge) command(ctx context.Context, files []*os.File) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, j.Binary, "-d", "-c", "/proc/self/fd/3")
	said := new(bytes.Buffer)
	cmd.Env, cmd.Dir, cmd.ExtraFiles, cmd.WaitDelay = Environment, "/", files, outputTimeout
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if os.Geteuid() == 0 || capability.Have(unix.CAP_SETUID) { // else it is run by a user of vifproxyctl, as that user
		cmd.SysProcAttr.Credential = &nobody
	}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) } // 1.10 has children
	return cmd, said
}

// ask starts a tinyproxy that permits what lines match, or everything if there are none, and reports for each request
// whether it refuses it.
func (j Judge) ask(ctx context.Context, lines []string, requests []Request, config []string) (refused []bool, err error) {
	err = onBareThread(func() (err error) {
		refused, err = j.askOne(ctx, lines, requests, config)
		return err
	})
	return refused, err
}

// askOne is ask, on a thread that ends after it.
func (j Judge) askOne(ctx context.Context, lines []string, requests []Request, config []string) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, questionBound)
	defer cancel()
	fail := func(err error) ([]bool, error) { return nil, fmt.Errorf("ask tinyproxy: %w", err) }

	closed, nowhere, err := reserve()
	if err != nil {
		return fail(err)
	}
	defer unix.Close(closed)
	reserved, at, err := reserve()
	if err != nil {
		return fail(err)
	}
	unix.Close(reserved) // for tinyproxy, which is there before anybody else is given this port of this address

	text := fmt.Sprintf("Listen %s\nPort %d\nAllow 127.0.0.0/8\nLogLevel Critical\nTimeout 10\nMaxClients 100\n"+
		"StartServers 1\nMinSpareServers 1\nMaxSpareServers 2\nUpstream http %s\n", at.Addr(), at.Port(), nowhere)
	text += strings.Join(config, "\n") + "\n"
	if lines != nil {
		text += "Filter \"/proc/self/fd/4\"\nFilterDefaultDeny Yes\n" + j.Filter.directives()
	}
	var files []*os.File
	for _, content := range []string{text, strings.Join(lines, "\n") + "\n"} {
		f, err := memoryFile(content)
		if err != nil {
			return fail(err)
		}
		defer f.Close()
		files = append(files, f)
	}

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd, said := j.command(ctx, files)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()

	if err := awaitListener(ctx, at, ended); err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == ExitFilter {
			return nil, badPatternIn(lines, said.String())
		}
		return fail(fmt.Errorf("%w%s", err, Quoted(strings.Split(strings.TrimSpace(said.String()), "\n"))))
	}
	refused := make([]bool, len(requests))
	for i, r := range requests {
		status, err := r.send(ctx, at)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", r.Line(), err))
		}
		refused[i] = status == 403
	}
	return refused, nil
}

// reserve binds a port of a random loopback address without listening on it: what connects there is turned away.
func reserve() (fd int, at netip.AddrPort, err error) {
	n := rand.Uint32()
	addr := netip.AddrFrom4([4]byte{127, 1 + byte(n)%254, byte(n >> 8), 1 + byte(n>>16)%254})
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, at, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}); err == nil {
		var bound unix.Sockaddr
		if bound, err = unix.Getsockname(fd); err == nil {
			return fd, netip.AddrPortFrom(addr, uint16(bound.(*unix.SockaddrInet4).Port)), nil
		}
	}
	unix.Close(fd)
	return -1, at, os.NewSyscallError("bind", err)
}

func memoryFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("vifproxy-judge", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	if _, err := f.WriteString(content); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// awaitListener returns nil when somebody listens, or the error with which the process ended.
func awaitListener(ctx context.Context, at netip.AddrPort, ended <-chan error) error {
	for wait := listenDelayMin; ; wait = min(wait*5/4, listenDelayMax) {
		s, err := sockdiag.Listener(at)
		if err != nil || s != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case err := <-ended:
			timer.Stop()
			if err == nil {
				err = errors.New("it ended with status 0")
			}
			return err
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// ReadStatus reads the status line of an answer.
func ReadStatus(conn io.Reader) (int, error) {
	answer, err := bufio.NewReader(io.LimitReader(conn, statusLineMax)).ReadString('\n')
	words := strings.Fields(answer)
	if len(words) < 2 {
		return 0, fmt.Errorf("answered %q: %w", answer, err)
	}
	return strconv.Atoi(words[1])
}

// 1.10 does not tell the line.
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
