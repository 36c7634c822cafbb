package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tree lists what is below dir.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != "." {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestLifeOfAProxy(t *testing.T) {
	compat := filepath.Join(openDir(t), "compat")
	l := newLauncher(t, func(o *Options) { o.CompatDir = compat })
	run := l.options.RuntimeDir
	spec := newSpec(l, "social", 61000)
	p := start(t, l, realBinary, spec)

	t.Run("process", func(t *testing.T) {
		status := read(t, "/proc", strconv.Itoa(p.PID), "status")
		for _, want := range []string{
			fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", spec.UID),
			fmt.Sprintf("Gid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", spec.UID),
			"Groups:\t \n", "CapEff:\t0000000000000000\n",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("status lacks %q:\n%s", want, status)
			}
		}
		if env := read(t, "/proc", strconv.Itoa(p.PID), "environ"); env != "PATH=/usr/bin:/bin\x00" {
			t.Errorf("environment %q", env)
		}
		if slack := read(t, "/proc", strconv.Itoa(p.PID), "timerslack_ns"); slack != "10000000\n" {
			t.Errorf("timer slack %q: it would spin at MaxClients", slack)
		}
		if sid, err := unix.Getsid(p.PID); err != nil || sid != p.PID {
			t.Errorf("session %d of pid %d: %v", sid, p.PID, err)
		}
	})
	t.Run("files", func(t *testing.T) {
		hasLog(t, p)
		want := "social social/61000 social/61000/config social/61000/refused.html social/61000/rules social/61000/unreached.html social/log"
		if got := tree(t, run); got != want {
			t.Errorf("files %s, want %s", got, want)
		}
		if err := l.SetCurrent(p); err != nil {
			t.Fatal(err)
		}
		want = textOf(l, spec) + fmt.Sprintf("ErrorFile 403 %q\nErrorFile 500 %[2]q\nErrorFile 502 %[2]q\n",
			filepath.Join(run, "social/61000/refused.html"), filepath.Join(run, "social/61000/unreached.html"))
		if got := read(t, run, "social/config"); got != want {
			t.Errorf("config %q", got)
		}
		if got := read(t, compat, "social/pid"); got != fmt.Sprintln(p.PID) {
			t.Errorf("pid %q", got)
		}
		for path, mode := range map[string]os.FileMode{
			"social": 0o750, "social/61000": 0o750, "social/61000/rules": 0o640,
			"social/61000/refused.html": 0o640, "social/log": 0o640,
		} {
			info, err := os.Stat(filepath.Join(run, path))
			if err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v %v", path, info.Mode(), err)
			}
		}
	})
	t.Run("filter", func(t *testing.T) {
		if got := get(t, p, "example.org"); !strings.Contains(got, " 403 ") {
			t.Errorf("answer %q", got)
		}
	})
	t.Run("clients", func(t *testing.T) {
		awaitClients := func(want ...string) {
			for ctx := bounded(t); ; {
				clients, err := p.Clients()
				if fmt.Sprint(clients) == fmt.Sprint(want) {
					return
				}
				if err != nil || ctx.Err() != nil {
					t.Fatalf("clients %v, want %v: %v", clients, want, err)
				}
			}
		}
		awaitClients()
		conn := dial(t, spec.Listen)
		awaitClients(conn.LocalAddr().String())
		conn.Close()
		awaitClients()
	})
	t.Run("switch", func(t *testing.T) {
		spec := newSpec(l, "social", 61001)
		next := start(t, l, realBinary, spec)
		if err := l.SetCurrent(next); err != nil {
			t.Fatal(err)
		}
		p.Kill()
		if err := p.Err(); err != nil {
			t.Errorf("killed proxy: %v", err)
		}
		if got := read(t, run, "social/config"); !strings.HasPrefix(got, textOf(l, spec)) {
			t.Errorf("config %q", got)
		}
		go next.Stop(time.Minute)
		for ended := false; !ended; {
			// tinyproxy looks for the signal before it polls, so it may sleep over one: wake it.
			if conn, err := net.Dial("tcp", next.Spec.Listen.String()); err == nil {
				conn.Close()
			}
			select {
			case <-next.Done():
				ended = true
			default:
			}
		}
		if err := next.Err(); err != nil {
			t.Errorf("stopped proxy: %v", err)
		}
		if got := tree(t, run); got != "social social/log" {
			t.Errorf("files left: %s", got)
		}
		if err := l.SetCurrent(next); err == nil {
			t.Error("an ended proxy became current")
		}
		written(t, p.log)
		log := read(t, run, "social/log")
		if !strings.Contains(log, `Proxying refused on filtered domain "example.org"`) ||
			!strings.Contains(log, "Shutting down.") {
			t.Errorf("log %s", log)
		}
	})
	l.CloseLog("social")
	if got := tree(t, run); got != "social social/log" {
		t.Errorf("files after Forget: %s", got)
	}
}

func dial(t *testing.T, addr netip.AddrPort) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// get asks a proxy for the front page of a host and returns the first line of its answer.
func get(t *testing.T, p *Proxy, host string) string {
	t.Helper()
	return request(t, p.Spec.Listen, "GET http://"+host+"/ HTTP/1.0\r\n\r\n")
}

func request(t *testing.T, addr netip.AddrPort, text string) string {
	t.Helper()
	conn := dial(t, addr)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	return line
}

// TestClose looks at what is left of foreign files, and of ours.
func TestClose(t *testing.T) {
	dir := openDir(t)
	run, compat := filepath.Join(dir, "run"), filepath.Join(dir, "compat")
	for _, path := range []string{filepath.Join(run, "foreign/61002"), compat} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{filepath.Join(run, "foreign/log"), filepath.Join(run, "foreign/61002/rules"), filepath.Join(run, "control.sock"),
		filepath.Join(compat, "tinyproxy.pid")} {
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hosts", filepath.Join(compat, "hosts")); err != nil {
		t.Fatal(err)
	}
	l, err := NewLauncher(Options{RuntimeDir: run, CompatDir: compat, Log: newLauncher(t, nil).options.Log})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, l, realBinary, newSpec(l, "social", 61000))
	if got := tree(t, compat); got != "hosts social tinyproxy.pid" {
		t.Errorf("compatibility links: %s", got)
	}
	for vm, port := range map[string]uint16{"control.sock": 61001, "foreign": 61002} {
		if _, err := l.Start(bounded(t), realBinary, newSpec(l, vm, port)); err == nil || !strings.Contains(err.Error(), "is not ours") {
			t.Errorf("a VM took the place of something foreign, %s: %v", vm, err)
		}
	}
	if !l.removeLeft() {
		t.Error("what is foreign is taken for files to be removed")
	}
	l.Close()
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	left := tree(t, run) + ", " + tree(t, compat)
	if left != "control.sock foreign foreign/61002 foreign/61002/rules foreign/log, hosts tinyproxy.pid" {
		t.Errorf("left: %s", left)
	}
	if _, err := l.Start(bounded(t), realBinary, newSpec(l, "social", 61000)); err == nil {
		t.Error("started after Close")
	}
}

// TestFilesElsewhere is for templates that name other places.
func TestFilesElsewhere(t *testing.T) {
	dir := openDir(t)
	l := newLauncher(t, nil)
	log, pid := filepath.Join(dir, "x.log"), filepath.Join(dir, "x.pid")
	p := start(t, l, realBinary, newSpec(l, "social", 61000,
		fmt.Sprintf("logfile %q", log), fmt.Sprintf("PIDFILE %q", pid)))
	if err := l.SetCurrent(p); err != nil {
		t.Fatal(err)
	}
	run := l.options.RuntimeDir
	if read(t, run, "social/pid") != fmt.Sprintln(p.PID) || read(t, pid) != fmt.Sprintln(p.PID) {
		t.Error("pid file")
	}
	p.Kill()
	written(t, p.log)
	got := read(t, log)
	if !strings.Contains(got, "Setting the various signals") || read(t, run, "social/log") != got {
		t.Errorf("log %q", got)
	}
	if got := tree(t, dir); got != "x.log" {
		t.Errorf("left: %s", got)
	}
	// And back.
	start(t, l, realBinary, newSpec(l, "social", 61001)).Kill()
	if info, err := os.Lstat(filepath.Join(run, "social/log")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("log is %v, %v", info, err)
	}
}

func TestNewLauncherErrors(t *testing.T) {
	dir := openDir(t)
	file, open, link := filepath.Join(dir, "file"), filepath.Join(dir, "open"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Mkdir(open, 0o755), os.Chmod(open, 0o777),
		os.Symlink("/etc", link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file + "/run": "make runtime directory: mkdir " + file + ": not a directory " +
			"(name another with --runtime-dir)",
		open: "runtime directory " + open + ": others can write to it " +
			"(chown it to uid 0 and chmod 755 it, or name another with --runtime-dir)",
		link: "runtime directory " + link + " is not a directory (remove it, or name another with --runtime-dir)",
	} {
		if _, err := NewLauncher(Options{RuntimeDir: path}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestReplacedBinary(t *testing.T) {
	dir := openDir(t)
	path := filepath.Join(dir, "tinyproxy")
	program, err := os.ReadFile(realBinary)
	if err != nil {
		t.Fatal(err)
	}
	install := func() tinyproxy.Binary {
		tmp := path + ".new"
		syscall.ForkLock.RLock() // as in program
		err := errors.Join(os.WriteFile(tmp, program, 0o755), os.Rename(tmp, path))
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
		b, err := tinyproxy.Identify(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	l := newLauncher(t, nil)
	old := install()
	p := start(t, l, path, newSpec(l, "social", 61000))
	if b, err := tinyproxy.Identify(path); b != old || err != nil {
		t.Errorf("%+v, %v; was %+v", b, err, old)
	}
	if version, err := old.Version(t.Context()); !strings.HasPrefix(version, "tinyproxy 1.") || err != nil {
		t.Errorf("version %q, %v", version, err)
	}
	if b := install(); b == old {
		t.Error("a replaced program has the same identity")
	}
	if got := get(t, p, "example.org"); !strings.Contains(got, " 403 ") {
		t.Errorf("answer after the replacement %q", got)
	}
	start(t, l, path, newSpec(l, "social", 61001))
}

// TestFilesThatStayAreRemovedLater: the end of a proxy cannot always remove its files, as for lack of descriptors.
func TestFilesThatStayAreRemovedLater(t *testing.T) {
	l := newLauncher(t, nil)
	p := start(t, l, realBinary, newSpec(l, "social", 61510))
	dir := filepath.Join(l.options.RuntimeDir, portDir(p.Spec))
	kept := filepath.Join(dir, "kept")
	if err := os.Mkdir(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", kept, "tmpfs", 0, "size=4k"); err != nil { // nobody can remove it meanwhile
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(kept, unix.MNT_DETACH) }) //nolint:errcheck // it is done by then
	p.Kill()
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("this shows nothing: %v", err)
	}
	// The next proxy at that port has its files beside what stays, and keeps them.
	next := start(t, l, realBinary, newSpec(l, "social", 61510))
	if !l.removeLeft() {
		t.Error("what stays beside the files of a proxy is to be removed")
	}
	for _, file := range []string{"config", "rules"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Errorf("a proxy lost its files: %v", err)
		}
	}
	next.Kill()
	if l.removeLeft() {
		t.Error("what stays is forgotten")
	}
	if err := unix.Unmount(kept, 0); err != nil {
		t.Fatal(err)
	}
	go l.KeepFiles(t.Context(), func(error) {})
	for ctx := bounded(t); ; time.Sleep(filesInterval / 50) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		} else if ctx.Err() != nil {
			t.Fatalf("%s is there", dir)
		}
	}
}
