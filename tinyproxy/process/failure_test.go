package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vifproxy/tinyproxy"
)

// TestStartErrors has the exact message of everything that can keep a proxy from starting.
func TestStartErrors(t *testing.T) {
	l := newLauncher(t, nil)
	taken, err := net.Listen("tcp", "127.0.0.1:61009")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := openDir(t)
	notExecutable, badFormat := filepath.Join(dir, "data"), filepath.Join(dir, "bad")
	noLoader, hidden := filepath.Join(dir, "noloader"), filepath.Join(dir, "closed/tinyproxy")
	if err := errors.Join(os.WriteFile(notExecutable, nil, 0o644),
		os.WriteFile(badFormat, []byte("\x00\x01"), 0o755),
		os.WriteFile(noLoader, []byte("#!/nonexistent\n"), 0o755),
		os.Mkdir(filepath.Dir(hidden), 0o700), os.WriteFile(hidden, nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	const (
		install = " (install the package tinyproxy, or name the program with --tinyproxy)"
		see     = " (see tinyproxy.conf(5) of the installed version)"
	)
	twoRules := func(s *Spec) {
		s.Rules = []tinyproxy.FilterLine{{Text: `^a\.com$`, Number: 2}, {Text: `a[`, Number: 7}}
	}
	listenOn := func(addr string) func(*Spec) {
		return func(s *Spec) { s.Listen = netip.MustParseAddrPort(addr) }
	}
	for name, c := range map[string]struct {
		binary string
		change func(*Spec)
		line   string // of the template
		want   string // after "start proxy for social (10.137.238.73): "
		config bool
	}{
		"missing binary": {
			binary: "/nonexistent",
			want:   "no tinyproxy program: stat /nonexistent: no such file or directory" + install,
		},
		"directory": {
			binary: dir,
			want:   "tinyproxy program " + dir + " is not a regular file" + install,
		},
		"not executable": {
			binary: notExecutable,
			want:   "tinyproxy program " + notExecutable + " may not be executed by everybody (chmod 755 it)",
		},
		"not a program": {
			binary: badFormat,
			want: "cannot execute " + badFormat + " as uid 1888087625: exec format error " +
				"(it is not a program for this machine; reinstall the package tinyproxy)",
		},
		"no loader": {
			binary: noLoader,
			want: "cannot execute " + noLoader + " as uid 1888087625: no such file or directory " +
				"(its interpreter or dynamic loader is missing; reinstall the package tinyproxy)",
		},
		"directory closed to others": {
			binary: hidden,
			want: "cannot execute " + hidden + " as uid 1888087625: permission denied " +
				"(its directories must be searchable by everybody, its file system not mounted noexec)",
		},
		"exits 0": {
			binary: script(t, "exit 0"),
			want: "tinyproxy ended by itself with status 0 and said nothing " +
				"(somebody sent it SIGTERM, or it is not tinyproxy)",
		},
		"exits otherwise": {
			binary: script(t, "echo sorry; exit 3"),
			want:   `tinyproxy exited with status 3; it said "sorry"`,
		},
		"killed by a signal": {
			binary: script(t, "kill -SEGV $$"),
			want:   "tinyproxy was killed by SIGSEGV",
		},
		"killed": {
			binary: script(t, "kill -KILL $$"),
			want: "tinyproxy was killed by SIGKILL " +
				"(by a person, or for lack of memory: see the kernel's log)",
		},
		"hostile output": {
			binary: script(t, `printf '\033[2J'; exit 64`),
			want:   `tinyproxy exited with status 64; it said "\x1b[2J"`,
		},
		"exits when it listens": {
			binary: script(t, realBinary+` "$@" >/dev/null & sleep 0.1; echo late; exit 70`),
			want:   `/rw/config: tinyproxy refuses it; it said "late"` + see,
			config: true,
		},
		"cannot listen": {
			binary: script(t, "echo no; exit 71"),
			want:   `tinyproxy cannot listen on 127.0.0.1:61001; it said "no"`,
		},
		"cannot read its rules": {
			binary: script(t, `echo "filter file: Permission denied"; exit 65`),
			want:   `tinyproxy exited with status 65; it said "filter file: Permission denied"`,
		},
		"port taken": {
			change: func(s *Spec) { *s = newSpec(l, s.Name, 61009) },
			want: "another process, of uid 0, listens on 127.0.0.1:61009 " +
				"(end it; ss -ltnp 'sport = 61009' shows it)",
		},
		"address missing": {
			line: "Listen 10.137.0.1", change: listenOn("10.137.0.1:61001"),
			want: "tinyproxy cannot listen on 10.137.0.1:61001; " +
				`it said "/usr/bin/tinyproxy: Could not create listening sockets." ` +
				"(no interface has the address 10.137.0.1: the AppVM has left, or its vif is not ready)",
		},
		"no memory for its rules": {
			binary: script(t, `echo "out of memory parsing filter file $(dirname $3)/rules: line 420"; exit 65`),
			want:   "/rw/social.10.137.238.73: tinyproxy has no memory for a list of 1 lines (shorten it, or give this VM more memory)",
			config: true,
		},
		"bad regex": {
			change: twoRules,
			want: `/rw/social.10.137.238.73:7: bad regex "a[" ` +
				"(correct it; tinyproxy takes it for a POSIX basic regular expression, see regex(7))",
			config: true,
		},
		"bad regex, 1.10": {
			binary: script(t, `echo "Bad regex in $(dirname $3)/rules: a["; exit 65`),
			line:   "FilterExtended on", change: twoRules,
			want: `/rw/social.10.137.238.73:7: bad regex "a[" ` +
				"(correct it; tinyproxy takes it for a POSIX extended regular expression, see regex(7))",
			config: true,
		},
		"line break in a pattern": {
			change: func(s *Spec) { s.Rules = []tinyproxy.FilterLine{{Text: "a\n.", Number: 7}} },
			want:   `/rw/social.10.137.238.73:7: line break or NUL in "a\n." (remove it)`,
			config: true,
		},
		"unknown directive": {
			line:   "Colour blue",
			want:   `/rw/config:9: tinyproxy does not understand "Colour …"` + see,
			config: true,
		},
		"a mistake beside a password": {
			line:   "BasicAuth me secret, proxy",
			want:   `/rw/config:9: tinyproxy does not understand "BasicAuth …"` + see,
			config: true,
		},
		"syntax error, 1.10": {
			binary: script(t, `echo "Syntax error on line 2"; exit 70`),
			change: func(s *Spec) { s.TemplatePath = "" },
			want:   `built-in template:2: tinyproxy does not understand "Listen 127.0.0.1"` + see,
			config: true,
		},
		"bad configuration": {
			binary: script(t, `echo "cannot"; exit 70`),
			want:   `/rw/config: tinyproxy refuses it; it said "cannot"` + see,
			config: true,
		},
		"other port": {
			change: listenOn("127.0.0.1:61002"),
			want:   `/rw/config: its Port is 61001, not 61002 (write "Port {port}", and no other Port)`,
			config: true,
		},
		"other address": {
			change: listenOn("10.137.0.1:61001"),
			want:   `/rw/config: it does not Listen on 10.137.0.1 (write "Listen {bind_ip}")`,
			config: true,
		},
		"other filter": {
			change: func(s *Spec) {
				s.Render = render("/rw/config", func(tinyproxy.Paths) string {
					return "Port 61001\nListen 127.0.0.1\nFilter \"/etc/hosts\"\nFilterDefaultDeny Yes\n"
				})
			},
			want: `/rw/config: its Filter is "/etc/hosts", not the rules of the VM ` +
				`(write Filter "{rules_file}", and no other Filter)`,
			config: true,
		},
		"root": {
			change: func(s *Spec) { s.UID = 0 },
			want:   "cannot listen on 127.0.0.1:61001 as uid 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := newSpec(l, "social", 61001, c.line)
			spec.Addr = netip.MustParseAddr("10.137.238.73")
			spec.RulesPath, spec.UID = "/rw/social.10.137.238.73", identities.UID(spec.Addr)
			if c.change != nil {
				addr := spec.Addr
				c.change(&spec)
				spec.Addr = addr
			}
			if c.binary == "" {
				c.binary = realBinary
			}
			p, err := l.Start(bounded(t), c.binary, spec)
			if err == nil {
				p.Kill()
				t.Fatal("started")
			}
			var e *Error
			want := "start proxy for social (10.137.238.73): " + c.want
			if !errors.As(err, &e) || e.Error() != want || e.Config != c.config {
				t.Errorf("error, bad configuration %t:\n%v\nwant:\n%s", e.Config, err, want)
			}
			if got := tree(t, l.options.RuntimeDir); got != "" && got != "social" && got != "social social/log" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
	if n := len(l.proxies); n != 0 {
		t.Errorf("%d proxies in the books", n)
	}
}

// TestNeverListens ends a start when its context ends, and what it started.
func TestNeverListens(t *testing.T) {
	l := newLauncher(t, nil)
	pids := filepath.Join(openDir(t), "pids")
	if err := errors.Join(os.WriteFile(pids, nil, 0), os.Chmod(pids, 0o666)); err != nil {
		t.Fatal(err)
	}
	binary := script(t, "sleep 1000 & echo $$ $! > "+pids+"; echo started; wait")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for read(t, pids) == "" {
		}
		cancel(errors.New("too late"))
	}()
	_, err := l.Start(ctx, binary, newSpec(l, "social", 61001))
	want := "start proxy for social (10.137.238.73): tinyproxy does not listen on 127.0.0.1:61001; " +
		"it said \"started\": too late (check that the program is tinyproxy, and that the machine is not overloaded)"
	if err == nil || strings.Replace(err.Error(), " and said nothing", `; it said "started"`, 1) != want {
		t.Errorf("%v\nwant: %s", err, want)
	}
	var leader, child int
	if _, err := fmt.Sscan(read(t, pids), &leader, &child); err != nil {
		t.Fatal(err)
	}
	if left := running(t, func(pid, _ int) bool { return pid == leader || pid == child }); left != nil {
		t.Errorf("still runs: %s", left)
	}
}

// Who has a port need not listen there.
func TestTakenPorts(t *testing.T) {
	l := newLauncher(t, nil)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 61009}); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"bound", "listens"} {
		var e *Error
		if _, err := l.Start(bounded(t), realBinary, newSpec(l, "social", 61009)); !errors.As(err, &e) || !e.Taken {
			t.Errorf("%s: %v", how, err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
	}
}
