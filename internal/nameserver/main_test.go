package nameserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
)

const roleVar = "VIFPROXY_TEST_ROLE"

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" {
		runtime.LockOSThread() // Pdeathsig: a `go test` timeout ends the child too
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), roleVar+"=tests")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "run the tests in a network namespace (as root):", err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	for fd := 3; fd < 64; fd++ { // what somebody has left open, as process.NewLauncher does in the daemon
		syscall.CloseOnExec(fd)
	}
	lo, err := netlink.LinkByName("lo")
	if err = errors.Join(err, netlink.LinkSetUp(lo)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var built sync.Map // of functions that build programs, by their names

// build builds a program as it is shipped.
func build(t testing.TB, pkg string) string {
	t.Helper()
	once, _ := built.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "nameserver")
		if err != nil {
			return "", err
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
		return filepath.Join(dir, filepath.Base(pkg)), nil
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A log keeps what is logged.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A book is a Pinner that writes down what it is told.
type book struct {
	mu    sync.Mutex
	fails int // so many times
	lines []string
	calls int
}

func (b *book) write(verb string, pins ...firewall.Pin) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fails > 0 {
		b.fails--
		return errors.New("the kernel refuses")
	}
	for _, p := range pins {
		b.lines = append(b.lines, strings.TrimSpace(fmt.Sprintf("%s %d %v", verb, p.UID, p.Addr)))
	}
	return nil
}

func (b *book) Pin(_ context.Context, pins []firewall.Pin, _ time.Duration) error {
	return b.write("pin", pins...)
}

func (b *book) Unpin(_ context.Context, pins []firewall.Pin) error { return b.write("unpin", pins...) }

func (b *book) UnpinAll(_ context.Context, uid uint32) error {
	return b.write("unpin all of", firewall.Pin{UID: uid})
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

// A place is a Server with what it is made of.
type place struct {
	*Server
	t    testing.TB
	log  *log
	book *book
}

// start starts a Server with a program in the place of vifproxy-names, or that itself.
func start(t testing.TB, pkg string, change func(*Options)) place {
	t.Helper()
	sandbox, err := confine.NewStrict(build(t, "vifproxy/cmd/vifproxy-confine"))
	if strings.HasSuffix(pkg, "/hostile") {
		sandbox, err = confine.New(build(t, "vifproxy/cmd/vifproxy-confine"))
	}
	if err != nil {
		t.Fatal(err)
	}
	p := place{t: t, log: new(log), book: new(book)}
	o := Options{Program: build(t, pkg), Sandbox: sandbox, Pinner: p.book,
		Events: events.New(slog.New(slog.NewTextHandler(p.log, nil))),
		Judge: func(_ context.Context, _ int64, name string) (bool, error) {
			if name == "unheard" {
				return false, errors.New("no tinyproxy starts")
			}
			return name == "permitted", nil
		}}
	if change != nil {
		change(&o)
	}
	if p.Server, err = Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		sandbox.Close()
		if t.Failed() {
			t.Logf("the log:\n%s", p.log)
		}
	})
	p.Configure(wire.Settings{})
	return p
}

// until waits for a condition.
func (p place) until(what string, is func() bool) {
	p.t.Helper()
	for over := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(over) {
			p.t.Fatalf("never: %s", what)
		}
	}
}

// ends returns how many resolvers have ended, as people were told.
func (p place) ends() int { return strings.Count(p.log.String(), "event=resolver-ended") }

// works waits until the daemon gets an answer, and fails the test if it is another one.
func (p place) works() {
	p.t.Helper()
	p.until("it answers", func() bool {
		addrs, err := p.LookUp(p.t.Context(), 0, "bank.example")
		var failed *Error
		if errors.As(err, &failed) && failed.Failure == wire.Silent { // a machine that is busy with others may take longer
			return false
		}
		if err != nil || fmt.Sprint(addrs) != "[93.184.216.34]" {
			p.t.Fatalf("%v, %v", addrs, err)
		}
		return true
	})
}

// pid returns the process of the resolver, which has its uid, and is a child of this process.
func (p place) pid() (pid int) {
	p.t.Helper()
	p.until("a resolver runs", func() bool {
		all, _ := filepath.Glob("/proc/[0-9]*/status")
		for _, path := range all {
			status, _ := os.ReadFile(path)
			if strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) &&
				strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t", tinyproxy.NamesUID)) &&
				!strings.Contains(string(status), "\nState:\tZ") {
				pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(path)))
			}
		}
		return pid != 0
	})
	return pid
}

const hostile = "vifproxy/internal/nameserver/hostile"

func order(uid uint32, lines ...string) wire.Gate {
	return wire.Gate{UID: uid, Lines: lines, Language: "ere"}
}
