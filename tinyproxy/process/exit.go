package process

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vifproxy/internal/secret"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/confine/handover"
)

// An Error says why a proxy did not start, or why it ended.
type Error struct {
	Doing  string // "start proxy" or "proxy"
	VM     string
	Addr   netip.Addr
	Text   string // what is wrong, with file, line and pattern if it has them
	Remedy string // what a person can do about it; may be empty
	Config bool   // rules or template are at fault: the same files would fail the same way
	Taken  bool   // another process has the port; another port would do
	Err    error  // underlying error; may be nil
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s for %s (%s): ", e.Doing, e.VM, e.Addr)
	switch {
	case e.Text != "" && e.Err != nil:
		s += e.Text + ": " + e.Err.Error()
	case e.Err != nil:
		s += e.Err.Error()
	default:
		s += e.Text
	}
	if e.Remedy != "" {
		s += " (" + e.Remedy + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// badPattern is what follows "Bad regex in FILE: ". 1.10 does not tell the line.
var badPattern = regexp.MustCompile(`^(?:line ([0-9]+) - )?(.*)$`)

// explain returns an error for an exit status and the last lines that tinyproxy said. dir has the files that it read.
func explain(spec rendered, dir string, status syscall.WaitStatus, said []string) *Error {
	if status.Signaled() {
		return explainServed(status)
	}
	switch status.ExitStatus() {
	case tinyproxy.ExitFilter:
		for _, line := range said {
			if rest, ok := strings.CutPrefix(line, "Bad regex in "+filepath.Join(dir, "rules")+": "); ok {
				return badRegex(spec, rest)
			}
			// 1.11 says so if malloc fails. If the C library itself lacks memory, tinyproxy calls that a bad regex.
			if strings.HasPrefix(line, "out of memory parsing filter file") {
				return &Error{Text: fmt.Sprintf("%s: tinyproxy has no memory for a list of %d lines", spec.RulesPath, spec.Size.Lines),
					Remedy: "shorten it, or give this VM more memory", Config: true}
			}
		}
	case tinyproxy.ExitConfig:
		e := &Error{Text: tinyproxy.TemplateName(spec.TemplatePath) + ": tinyproxy refuses it" + tinyproxy.Quoted(said), Config: true,
			Remedy: "see tinyproxy.conf(5) of the installed version"}
		for _, line := range said {
			if strings.Contains(line, "Could not open config file") {
				return &Error{Text: "tinyproxy cannot read its configuration" + tinyproxy.Quoted(said),
					Remedy: "every directory above the runtime directory must be searchable by everybody"}
			}
			if n, ok := tinyproxy.SyntaxErrorAt(line); ok {
				e.Text = fmt.Sprintf("%s:%d: tinyproxy does not understand %q",
					tinyproxy.TemplateName(spec.TemplatePath), n, secret.Directive(lineOf(filepath.Join(dir, "config"), n)))
			}
		}
		return e
	case tinyproxy.ExitListen:
		return &Error{Text: fmt.Sprintf("tinyproxy cannot listen on %s%s", spec.Listen, tinyproxy.Quoted(said)),
			Remedy: listenRemedy(spec.Listen), Taken: inUse(spec.Listen)}
	case 0:
		return &Error{Text: "tinyproxy ended by itself with status 0" + tinyproxy.Quoted(said),
			Remedy: "somebody sent it SIGTERM, or it is not tinyproxy"}
	}
	return &Error{Text: fmt.Sprintf("tinyproxy exited with status %d%s", status.ExitStatus(), tinyproxy.Quoted(said))}
}

// explainServed returns an error for the end of a process that has served. Its AppVM may own it, so neither its exit status
// nor what it said is a judgement about rules or template. What it said is quoted in its log only.
func explainServed(status syscall.WaitStatus) *Error {
	switch {
	case status.Exited() && status.ExitStatus() == 0:
		return &Error{Text: "tinyproxy ended by itself with status 0", Remedy: "somebody sent it SIGTERM"}
	case status.Exited():
		return &Error{Text: fmt.Sprintf("tinyproxy, which had served, exited with status %d", status.ExitStatus()),
			Remedy: "its log may say why: see vifproxyctl log"}
	}
	e := &Error{Text: fmt.Sprintf("tinyproxy was killed by %s", unix.SignalName(status.Signal()))}
	if status.Signal() == unix.SIGKILL {
		e.Remedy = "by a person, or for lack of memory: see the kernel's log"
	}
	return e
}

// cannotExecute returns the error of a program that does not start.
func cannotExecute(binary string, spec rendered, err error) *Error {
	if errors.Is(err, confine.ErrScript) {
		return &Error{Text: binary + " is a script", Err: confine.ErrScript,
			Remedy: "name the program itself with --tinyproxy"}
	}
	return &Error{Text: fmt.Sprintf("cannot execute %s as uid %d", binary, spec.UID), Err: err, Remedy: execRemedy(err)}
}

// crashed is the exit status of a Go program that its runtime ends (dopanic_m in runtime/panic.go, Go 1.26). The first line of its
// output is the reason, and the stacks of all goroutines follow: GOTRACEBACK does not make them fewer for an error of the runtime itself.
const crashed = 2

var crash = regexp.MustCompile(`^(runtime|fatal error|panic|SIG[A-Z]+): `)

// explainConfined returns an error for an exit of vifproxy-confine; nil if it was tinyproxy that ended.
func (p *Proxy) explainConfined(status syscall.WaitStatus, said []string) *Error {
	if p.cell == nil {
		return nil
	}
	last := said[max(0, len(said)-1):]
	errno, ok := handover.ParseFailure(strings.Join(last, ""))
	switch status.ExitStatus() {
	case crashed:
		if first := p.output.Said.First(); crash.MatchString(first) {
			return &Error{Text: "vifproxy-confine crashed" + tinyproxy.Quoted([]string{first}), Remedy: "it is tried again; please report it"}
		}
	case handover.CannotExecute:
		if ok {
			return cannotExecute(p.binary, p.Spec, errno)
		}
	case handover.CannotConfine:
		if ok || len(said) == 0 { // it ended before it had an output
			return &Error{Text: "tinyproxy cannot be confined" + tinyproxy.Quoted(last),
				Remedy: "is vifproxy-confine of the same version as vifproxyd?"}
		}
	}
	return nil
}

// badRegex returns an error that names the line of the user's file. rest is "line 4 - PATTERN", or "PATTERN" from 1.10.
func badRegex(spec rendered, rest string) *Error {
	m := badPattern.FindStringSubmatch(rest)
	pattern, where := m[2], spec.RulesPath
	if n, err := strconv.Atoi(m[1]); err == nil && n >= 1 && n <= len(spec.Rules) {
		where = spec.Rules[n-1].Where(spec.RulesPath)
		pattern = spec.Rules[n-1].Text
	} else {
		for _, r := range spec.Rules {
			if r.Text == pattern {
				where = r.Where(spec.RulesPath)
				break
			}
		}
	}
	kind := "basic"
	if spec.Config.Filter.Extended {
		kind = "extended"
	}
	return &Error{Text: fmt.Sprintf("%s: bad regex %q", where, pattern), Config: true,
		Remedy: fmt.Sprintf("correct it; tinyproxy takes it for a POSIX %s regular expression, see regex(7)", kind)}
}

// lineOf returns line n of a file, counted from 1; "" if there is none.
func lineOf(path string, n int) string {
	text, _ := os.ReadFile(path)
	lines := strings.Split(string(text), "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// execRemedy returns what to do if the kernel refuses to fork or execute.
func execRemedy(err error) string {
	switch {
	case errors.Is(err, unix.EACCES):
		return "its directories must be searchable by everybody, its file system not mounted noexec"
	case errors.Is(err, unix.ENOEXEC):
		return "it is not a program for this machine; reinstall the package tinyproxy"
	case errors.Is(err, unix.ENOENT):
		return "its interpreter or dynamic loader is missing; reinstall the package tinyproxy"
	case errors.Is(err, unix.EPERM):
		return "run as root, with CAP_SETUID and CAP_SETGID"
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return "too many processes or too little memory; see TasksMax= and free"
	}
	return ""
}
