package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"vifproxy/control"
	"vifproxy/internal/display"
	"vifproxy/internal/events"
	"vifproxy/internal/proxyctl"
	"vifproxy/internal/terminal"
	"vifproxy/tinyproxy/kernel"
)

func TestMain(m *testing.M) {
	program := func() {
		os.Exit(env{version: "1.0.0", root: os.Getenv("FAKE_ROOT"), stdout: os.Stdout, stderr: os.Stderr}.run(os.Args[1:]))
	}
	testscript.Main(m, map[string]func(){"vifproxyctl": program, proxyctl.Script: program, "nameserver": underNameServer})
}

// underNameServer runs a command beside a name server at 127.0.0.1 that knows no name.
func underNameServer() {
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		panic(err)
	}
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2], buf[3] = buf[2]|0x80, buf[3]|3 // an answer: NXDOMAIN
			conn.WriteTo(buf[:n], from)            //nolint:errcheck // who asked asks again
		}
	}()
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}

// The scripts in testdata talk to a fake daemon behind a real socket. Their own commands are
//
//	daemon STATUS.json [ERROR]    start a daemon in that state, whose verbs fail with ERROR if there is one
//	denies FILE.json              what the daemon says that VMs were refused
//	tells FILE...                 what it tells those who watch: one file for each connection, a JSON event a line;
//	                              after the last one it says no
//	counts FILE.json              what it has counted of the lines of lists
//	teaches FILE                  what it says of a lesson, a JSON line each
//	asked TEXT                    what the daemon was asked since the last time: one line per verb
//	exit N COMMAND...             run the command, which must end with this status
//	as UID N COMMAND...           the same as another user
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			completions, err := filepath.Abs("../../packaging/completions")
			if err != nil {
				return err
			}
			e.Vars = append(e.Vars, "COMPLETIONS="+completions, "SOCKET="+e.WorkDir+"/run/control.sock", "TZ=UTC", "GORACE=atexit_sleep_ms=0")
			e.Values[daemonKey{}] = &fakeDaemon{}
			for _, dir := range []string{filepath.Dir(e.WorkDir), e.WorkDir} { // tinyproxy -v is run as nobody
				if err := os.Chmod(dir, 0o755); err != nil {
					return err
				}
			}
			return nil
		},
		// [landlock]: the kernel has it, and no container refuses it.
		Condition: func(name string) (bool, error) {
			if name != "landlock" {
				return false, fmt.Errorf("there is no condition %s", name)
			}
			return !slices.ContainsFunc(kernel.Lacks(), func(l kernel.Lack) bool { return l.Mechanism == name }), nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"daemon": startDaemon,
			"denies": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(daemonKey{}).(*fakeDaemon)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.denied = nil
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &f.denied))
			},
			"tells": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, file := range args {
					var stream []events.Event
					for line := range strings.Lines(ts.ReadFile(file)) {
						var e events.Event
						ts.Check(json.Unmarshal([]byte(line), &e))
						stream = append(stream, e)
					}
					f := ts.Value(daemonKey{}).(*fakeDaemon)
					f.mu.Lock()
					f.tells = append(f.tells, stream)
					f.mu.Unlock()
				}
			},
			"teaches": func(ts *testscript.TestScript, _ bool, args []string) {
				var lesson []control.Lesson
				for line := range strings.Lines(ts.ReadFile(args[0])) {
					var l control.Lesson
					ts.Check(json.Unmarshal([]byte(line), &l))
					lesson = append(lesson, l)
				}
				f := ts.Value(daemonKey{}).(*fakeDaemon)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.lesson = lesson
			},
			"counts": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(daemonKey{}).(*fakeDaemon)
				f.mu.Lock()
				defer f.mu.Unlock()
				f.uses = nil
				ts.Check(json.Unmarshal([]byte(strings.ReplaceAll(ts.ReadFile(args[0]), "$WORK", ts.Getenv("WORK"))), &f.uses))
			},
			"asked": func(ts *testscript.TestScript, _ bool, args []string) {
				f := ts.Value(daemonKey{}).(*fakeDaemon)
				f.mu.Lock()
				defer f.mu.Unlock()
				if !slices.Equal(f.asked, args) {
					ts.Fatalf("the daemon was asked %q", f.asked)
				}
				f.asked = nil
			},
			"exit": func(ts *testscript.TestScript, _ bool, args []string) { expect(ts, nil, args) },
			"as": func(ts *testscript.TestScript, _ bool, args []string) {
				uid, err := strconv.ParseUint(args[0], 10, 32)
				ts.Check(err)
				expect(ts, &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}, args[1:])
			},
		},
	})
}

// expect runs vifproxyctl and compares its exit status, which testscript's own exec does not.
func expect(ts *testscript.TestScript, who *syscall.Credential, args []string) {
	cmd := exec.Command("/proc/self/exe", args[2:]...) // another user may not enter where the binary is
	cmd.Args[0] = args[1]
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"TZ=UTC", "GORACE=atexit_sleep_ms=0", "GOCOVERDIR=" + ts.Getenv("GOCOVERDIR")}
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	if who != nil {
		cmd.Dir = "/"
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}

type daemonKey struct{}

// fakeDaemon is in a state, and stays there.
type fakeDaemon struct {
	status control.Status
	fail   error

	mu     sync.Mutex
	asked  []string
	denied []events.Denied
	tells  [][]events.Event
	lesson []control.Lesson
	uses   []control.ListUse
}

func startDaemon(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(daemonKey{}).(*fakeDaemon)
	state := strings.ReplaceAll(ts.ReadFile(args[0]), "$WORK", ts.Getenv("WORK"))
	ts.Check(json.Unmarshal([]byte(state), &f.status))
	if len(args) > 1 {
		f.fail = errors.New(args[1])
	}
	l, err := control.Listen(ts.Getenv("SOCKET"), "")
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- control.Serve(ctx, l, f, slog.New(slog.DiscardHandler)) }()
	ts.Defer(func() {
		cancel()
		ts.Check(errors.Join(<-served, l.Close()))
	})
}

func (f *fakeDaemon) do(verb string, names ...string) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, strings.Join(append([]string{verb}, names...), " "))
	var known, unknown []string
	for _, vm := range f.status.VMs {
		known = append(known, vm.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	if unknown != nil {
		return control.Status{}, &control.UnknownError{Names: unknown, Known: known}
	}
	return f.status, f.fail
}

func (f *fakeDaemon) Status(context.Context) (control.Status, error) { return f.do("status") }
func (f *fakeDaemon) AppVMs(context.Context) (control.Status, error) { return f.do("status") }
func (f *fakeDaemon) Update(context.Context) (control.Status, error) { return f.do("update") }
func (f *fakeDaemon) Start(_ context.Context, names []string) (control.Status, error) {
	return f.do("start", names...)
}
func (f *fakeDaemon) Stop(_ context.Context, names []string) (control.Status, error) {
	return f.do("stop", names...)
}
func (f *fakeDaemon) Restart(_ context.Context, names []string) (control.Status, error) {
	return f.do("restart", names...)
}
func (f *fakeDaemon) Denied(_ context.Context, names []string, since time.Time) ([]events.Denied, error) {
	verb := "denied"
	if !since.IsZero() {
		verb += " since then"
	}
	_, err := f.do(verb, names...)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.denied, err
}

func (f *fakeDaemon) Review(_ context.Context, names []string) ([]control.ListUse, error) {
	_, err := f.do("review", names...)
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.uses), func(u control.ListUse) bool { return len(names) > 0 && !slices.Contains(names, u.VM) }), err
}

func (f *fakeDaemon) Watch(_ context.Context, names []string, send func(events.Event) error) error {
	if _, err := f.do("watch", names...); err != nil {
		return err
	}
	f.mu.Lock()
	if len(f.tells) == 0 {
		f.mu.Unlock()
		return errors.New("no more")
	}
	stream := f.tells[0]
	f.tells = f.tells[1:]
	f.mu.Unlock()
	for _, e := range stream {
		if err := send(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeDaemon) Learn(_ context.Context, r control.LearnRequest, send func(control.Lesson) error) error {
	if _, err := f.do(fmt.Sprintf("learn %d s", r.Seconds), r.Name); err != nil {
		return err
	}
	f.mu.Lock()
	lesson := f.lesson
	f.mu.Unlock()
	for _, line := range lesson {
		if err := send(line); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeDaemon) Caller(_ context.Context, name string) (control.Status, error) {
	return f.do("caller", name)
}

func (f *fakeDaemon) Refusals(context.Context, string, func(control.Refusal) error) error {
	return errors.New("no more")
}

func (f *fakeDaemon) KillAll(_ context.Context, restart bool) (control.Status, error) {
	return f.do("kill-all " + strconv.FormatBool(restart))
}

func (f *fakeDaemon) Allow(_ context.Context, t control.Temporary) (control.Status, error) {
	status, err := f.do(fmt.Sprintf("allow %s %d s", strings.Join(t.Hosts, " "), t.Seconds), t.Name)
	if slices.Contains(t.Hosts, "for.a.while") {
		status.TakenBack = []string{"for.a.while"}
	}
	return status, err
}

// Explain lets everything pass, unless there is a problem.
func (f *fakeDaemon) Explain(_ context.Context, name, url string) (control.Explanation, error) {
	status, err := f.do("explain "+url, name)
	if err != nil {
		return control.Explanation{}, err
	}
	passes, verdict := len(status.Problems) == 0, control.Passes
	switch {
	case passes:
	case status.Problems[0] == "fail":
		verdict = control.Fails
	default:
		verdict = control.IsRefused
	}
	target := url[strings.LastIndex(url, "/")+1:]
	if !strings.Contains(target, ":") {
		target += ":443"
	}
	what := ""
	if !passes {
		what = events.OtherTable
	}
	e := control.Explanation{What: what, VM: name, Request: "CONNECT " + target, Verdict: verdict, Passes: passes, Note: status.Backend,
		Steps: []control.Step{{Guard: "connect-port", Passes: true, Says: "any port", Lines: []control.Line{}},
			{Guard: "rules", Says: "no line permits it", Lines: []control.Line{}}}}
	if passes {
		e.Steps[1] = control.Step{Guard: "rules", Passes: true, Says: "permitted by", Lines: []control.Line{
			{Path: "/rules/bank", Line: 3, Text: "^a$"}, {Text: "^b$"}}}
	}
	return e, nil
}

// What only a hostile daemon or file system would send stays on its line, and is the same after a round trip.
func TestNothingReachesTheTerminal(t *testing.T) {
	hostile := "a\x1b[2J\n\t\u009b31m\u202e\u2028\U000e0041\x7f\"\\ü漢"
	vms := []control.VM{{Name: hostile, IP: hostile, State: hostile, Interfaces: []string{hostile}, Error: hostile}}
	text, err := terminal.JSON(orEmpty(vms), "  ")
	if err != nil {
		t.Fatal(err)
	}
	for what, out := range map[string]string{"table": display.Table(vms), "JSON": string(text)} {
		for _, r := range out {
			if r != '\n' && !strconv.IsPrint(r) {
				t.Errorf("%s: %q in %q", what, r, out)
			}
		}
	}
	if lines := strings.Count(display.Table(vms), "\n"); lines != 2 {
		t.Errorf("%d lines in %s", lines, display.Table(vms))
	}
	var back []control.VM
	if err := json.Unmarshal(text, &back); err != nil || back[0].Error != hostile {
		t.Errorf("JSON gave %+v, %v", back, err)
	}
	if got := terminal.Quote("\xff"); got != `"\xff"` {
		t.Errorf("invalid UTF-8 became %s", got)
	}
}

func TestOutputThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	if status := (env{stdout: full, stderr: &stderr}).run([]string{"help"}); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
	if want := "vifproxyctl: write /dev/full: no space left on device\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
}
