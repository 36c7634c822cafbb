package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/confine"
	"vifproxy/tinyproxy/limits"
)

// Roles of the test binary when it runs itself.
const roleVar = "VIFPROXY_TEST_ROLE"

// TestMain runs the tests in a network namespace of their own: the addresses and ports are theirs alone,
// and Reap finds no process of anybody else's; and in a mount namespace, with a resolv.conf of their own.
func TestMain(m *testing.M) {
	switch role, arg, _ := strings.Cut(os.Getenv(roleVar), ":"); role {
	case "":
		runtime.LockOSThread() // Pdeathsig: a `go test` timeout ends the child too
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), roleVar+"=tests")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "run the tests in a network namespace (as root):", err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	case "daemon":
		miniDaemon(arg)
	case "version":
		fmt.Println(tinyproxy.Binary{Path: arg}.Version(context.Background()))
	default:
		if err := errors.Join(loopbackUp(), ownNameServer()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// ownNameServer has the C library ask the tests' name server.
func ownNameServer() error {
	f, err := os.CreateTemp("", "resolv.conf")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	return errors.Join(f.Chmod(0o644), write(f, "nameserver "+nameServer+"\noptions timeout:5\n"),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(f.Name(), "/etc/resolv.conf", "", unix.MS_BIND, ""), f.Close())
}

func write(f *os.File, text string) error {
	_, err := f.WriteString(text)
	return err
}

// miniDaemon starts three proxies, prints their pids as JSON and waits to be killed. Its arguments are a runtime
// directory, a program and, if they are to be confined, the path of vifproxy-confine.
func miniDaemon(args string) {
	words := strings.Split(args, ",")
	dir, binary := words[0], words[1]
	o := Options{RuntimeDir: dir, Log: slog.Default()}
	var err error
	if len(words) > 2 {
		if o.Sandbox, err = confine.New(words[2]); err != nil {
			panic(err)
		}
	}
	l, err := NewLauncher(o)
	if err != nil {
		panic(err)
	}
	var pids []int
	for i := range 3 {
		spec := newSpec(l, fmt.Sprintf("vm%d", i), uint16(61500+i))
		p, err := l.Start(context.Background(), binary, spec)
		if err != nil {
			panic(err)
		}
		pids = append(pids, p.PID)
	}
	if err := json.NewEncoder(os.Stdout).Encode(pids); err != nil {
		panic(err)
	}
	select {}
}

const realBinary = "/usr/bin/tinyproxy"

// openDir returns a new directory that every uid can search, which t.TempDir's is not.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newLauncher returns a launcher with a runtime directory of its own, closed at the end of the test.
func newLauncher(t testing.TB, change func(*Options)) *Launcher {
	t.Helper()
	o := Options{RuntimeDir: filepath.Join(openDir(t), "run"), Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	l, err := NewLauncher(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// script writes an executable that plays a broken tinyproxy, but says the version of the real one.
func script(t testing.TB, body string) string {
	t.Helper()
	return program(t, `[ "$1" = -v ] && exec `+realBinary+" -v\n"+body)
}

// program is a shell script that does the same whatever it is asked.
func program(t testing.TB, body string) string {
	t.Helper()
	path := filepath.Join(openDir(t), "fake")
	// The program that waits for the next start may come meanwhile, and would have the file open for writing.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

var identities tinyproxy.Identities

// newSpec is for a VM whose proxy listens on 127.0.0.1:port and permits example.com.
func newSpec(l *Launcher, name string, port uint16, lines ...string) Spec {
	template := func(paths tinyproxy.Paths) string {
		return fmt.Sprintf("Port %d\nListen 127.0.0.1\nLogLevel Info\nUser nobody\nLogFile %q\nPidFile %q\n"+
			"Filter %q\nFilterDefaultDeny Yes\n", port, paths.LogFile, paths.PidFile, paths.RulesFile) + strings.Join(lines, "\n")
	}
	addr := netip.AddrFrom4([4]byte{10, 137, byte(port >> 8), byte(port)})
	return Spec{Name: name, Addr: addr, UID: identities.UID(addr), Render: render("/rw/config", template),
		Listen:       netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port),
		Rules:        []tinyproxy.FilterLine{{Text: `^example\.com$`, Number: 3}},
		Size:         limits.Rules{Lines: 1, Bytes: len(`^example\.com$`)},
		TemplatePath: "/rw/config", RulesPath: "/rw/" + name + "." + addr.String()}
}

// render reads a template, which must have no mistakes that ParseConfig finds.
func render(path string, template func(tinyproxy.Paths) string) func(tinyproxy.Paths) (tinyproxy.Config, string, error) {
	return func(paths tinyproxy.Paths) (tinyproxy.Config, string, error) {
		config, text, err := tinyproxy.ParseConfig(path, template(paths))
		if err != nil {
			panic(err)
		}
		return config, text, nil
	}
}

// textOf returns the text of a configuration.
func textOf(l *Launcher, spec Spec) string {
	_, text, _ := spec.Render(l.paths(spec.Name, spec.Listen.Port()))
	return text
}

// start starts a proxy that must come up.
func start(t testing.TB, l *Launcher, binary string, spec Spec) *Proxy {
	t.Helper()
	p, err := l.Start(bounded(t), binary, spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bounded ends a test that hangs with a useful message; nothing is timed by it.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
