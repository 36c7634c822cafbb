package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/await"
)

// nobody is a user and a group without any right; others is a group that exists everywhere and that nobody is not in.
const (
	nobody = 65534
	others = "daemon"
)

// childSocket makes the test binary a client that some other user runs.
const childSocket = "CONTROL_TEST_CHILD_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(childSocket); socket != "" {
		os.Exit(child(socket))
	}
	os.Exit(m.Run())
}

func child(socket string) int {
	status, err := NewClient(socket).Status(context.Background())
	var permission *PermissionError
	switch {
	case errors.As(err, &permission):
		fmt.Print("permission: ", err)
	case err != nil:
		fmt.Print("error: ", err)
	default:
		fmt.Print("ok: ", len(status.VMs))
	}
	return 0
}

// openDir is a directory that every user can look into, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vifproxy-control-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// asUser asks for the status as a process with these credentials.
func asUser(t *testing.T, socket string, who syscall.Credential) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // its own path may lead through directories that others cannot enter
	cmd.Dir = "/"
	cmd.Env = []string{childSocket + "=" + socket, "GORACE=atexit_sleep_ms=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &who}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestWhoMayConnect(t *testing.T) {
	gid, err := groupID(others)
	if err != nil {
		t.Fatal(err)
	}
	group := uint32(gid)
	stranger := syscall.Credential{Uid: nobody, Gid: nobody}
	tests := []struct {
		name  string
		group string
		mode  fs.FileMode // set after Listen; 0 leaves it
		who   syscall.Credential
		want  string
	}{
		{"root", "", 0, syscall.Credential{}, "ok: 2"},
		{"root's group is not root", "", 0o666, syscall.Credential{Uid: nobody, Gid: 0}, "permission: "},
		{"stranger, stopped by the mode", "", 0, stranger, "permission: "},
		{"stranger, stopped by the kernel's word", "", 0o666, stranger, "permission: "},
		{"group not given", "", 0o666, syscall.Credential{Uid: nobody, Gid: group}, "permission: "},
		{"primary group", others, 0, syscall.Credential{Uid: nobody, Gid: group}, "ok: 2"},
		{"supplementary group", others, 0,
			syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, group, 9}}, "ok: 2"},
		{"not in the group, stopped by the mode", others, 0, stranger, "permission: "},
		{"not in the group, stopped by the kernel's word", others, 0o666,
			syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, 9}}, "permission: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := serveFake(t, &fakeDaemon{}, defaults, tt.group)
			if tt.mode != 0 {
				if err := os.Chmod(d.socket, tt.mode); err != nil {
					t.Fatal(err)
				}
			}
			got := asUser(t, d.socket, tt.who)
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if byMode := strings.Contains(got, "permission denied):"); tt.want != "ok: 2" && byMode != (tt.mode == 0) {
				t.Errorf("stopped by the wrong lock: %q", got)
			}
			if tt.want != "ok: 2" && len(d.asked) != 0 {
				t.Errorf("the daemon was asked %q", d.asked)
			}
		})
	}
}

func TestManyGroups(t *testing.T) {
	d := serveFake(t, &fakeDaemon{}, defaults, others)
	gid, err := groupID(others)
	if err != nil {
		t.Fatal(err)
	}
	who := syscall.Credential{Uid: nobody, Gid: nobody}
	for g := range uint32(5000) {
		who.Groups = append(who.Groups, 100000+g)
	}
	who.Groups = append(who.Groups, uint32(gid))
	if got := asUser(t, d.socket, who); got != "ok: 2" {
		t.Errorf("a member of 5001 groups: %q", got)
	}
}

func TestSocketMode(t *testing.T) {
	defer unix.Umask(unix.Umask(0)) // the worst umask: whatever the mode is now, it was from the first moment
	dir := filepath.Join(openDir(t), "vifproxy")
	for _, tt := range []struct {
		group string
		mode  fs.FileMode
	}{{"", 0o600}, {others, 0o660}} {
		path := filepath.Join(dir, "control.sock")
		l, err := Listen(path, tt.group)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		gid := 0
		if tt.group != "" {
			gid = l.gid
		}
		stat := info.Sys().(*syscall.Stat_t)
		if info.Mode() != fs.ModeSocket|tt.mode || stat.Uid != 0 || int(stat.Gid) != gid {
			t.Errorf("group %q: %v %d:%d", tt.group, info.Mode(), stat.Uid, stat.Gid)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: %v", err)
		}
	}
	if info, err := os.Lstat(dir); err != nil || info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("the directory: %v %v", info.Mode(), err)
	}
}

func TestDirectoryModeUnderAnyUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := filepath.Join(openDir(t), "vifproxy")
	l, err := Listen(filepath.Join(dir, "control.sock"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(dir); err != nil || info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("the directory: %v %v", info.Mode(), err)
	}
}

func TestListenRefuses(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string) (path string)
		group   string
		want    string
	}{
		{"relative path", func(*testing.T, string) string { return "control.sock" }, "", "must be absolute"},
		{"abstract socket", func(*testing.T, string) string { return "@vifproxy" }, "", "must be absolute"},
		{"long path", func(_ *testing.T, dir string) string { return filepath.Join(dir, strings.Repeat("x", 108)) },
			"", "unix(7) allows 107"},
		{"unknown group", inside, "no-such-group", `there is no group "no-such-group"`},
		{"no parent", func(_ *testing.T, dir string) string { return filepath.Join(dir, "a", "b", "s") },
			"", "no such file or directory"},
		{"directory is a file", func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "file"))
			return filepath.Join(dir, "file", "s")
		}, "", "is not a directory"},
		{"directory open to all", func(t *testing.T, dir string) string {
			must(t, os.Chmod(dir, 0o777|fs.ModeSticky))
			return inside(t, dir)
		}, "", "can be written by others than root"},
		{"directory of another user", func(t *testing.T, dir string) string {
			must(t, os.Chown(dir, nobody, 0))
			return inside(t, dir)
		}, "", "(uid 65534, mode 0755) can be written by others than root"},
		{"a file is there", func(t *testing.T, dir string) string {
			write(t, inside(t, dir))
			return inside(t, dir)
		}, "", "something else is there (-rw-------)"},
		{"a symlink to a file is there", func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "target"))
			must(t, os.Symlink("target", inside(t, dir)))
			return inside(t, dir)
		}, "", "something else is there (Lrwxrwxrwx)"},
		{"a dangling symlink is there", func(t *testing.T, dir string) string {
			must(t, os.Symlink("target", inside(t, dir)))
			return inside(t, dir)
		}, "", "something else is there (Lrwxrwxrwx)"},
		{"the lock is a symlink", func(t *testing.T, dir string) string {
			must(t, os.Symlink("target", inside(t, dir)+".lock"))
			return inside(t, dir)
		}, "", "too many levels of symbolic links"},
		{"another vifproxyd", func(t *testing.T, dir string) string {
			l, err := Listen(inside(t, dir), "")
			must(t, err)
			t.Cleanup(func() { l.Close() })
			return inside(t, dir)
		}, "", "another vifproxyd is running"},
		{"another vifproxyd whose socket was removed", func(t *testing.T, dir string) string {
			l, err := Listen(inside(t, dir), "")
			must(t, err)
			t.Cleanup(func() { l.Close() })
			must(t, os.Remove(inside(t, dir)))
			return inside(t, dir)
		}, "", "another vifproxyd is running"},
		{"another program", func(t *testing.T, dir string) string {
			l, err := net.Listen("unix", inside(t, dir))
			must(t, err)
			t.Cleanup(func() { l.Close() })
			return inside(t, dir)
		}, "", "another program listens there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := openDir(t)
			path := tt.prepare(t, dir)
			before := tree(t, dir)
			l, err := Listen(path, tt.group)
			if err == nil {
				l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("what was there has changed from %s to %s", before, after)
			}
		})
	}
}

// A daemon was killed just after a fork: for a moment, the child has its lock and its socket.
func TestChildOfAKilledDaemon(t *testing.T) {
	path := inside(t, openDir(t))
	for _, what := range []string{"lock and socket", "socket"} {
		killed, err := Listen(path, "")
		must(t, err)
		if what == "socket" {
			must(t, killed.lock.Close())
		}
		killed.socket.SetUnlinkOnClose(false)
		time.AfterFunc(patience/10, func() { killed.Close() })
		l, err := Listen(path, "")
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		must(t, l.Close())
	}
}

// What a daemon leaves behind that was killed: the socket and an unlocked lock file.
func TestStaleSocketIsReplaced(t *testing.T) {
	path := inside(t, openDir(t))
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())
	write(t, path+".lock")
	for range 2 { // a lock file that stays is no obstacle
		l, err := Listen(path, "")
		if err != nil {
			t.Fatal(err)
		}
		must(t, l.Close())
	}
}

// Of many daemons that start at once, over a stale socket, exactly one wins, and the socket is the winner's.
func TestOneOfManyWins(t *testing.T) {
	path := inside(t, openDir(t))
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	stale.SetUnlinkOnClose(false)
	must(t, stale.Close())

	const many = 16
	won := make(chan *Listener, many)
	for range many {
		go func() {
			l, _ := Listen(path, "")
			won <- l
		}()
	}
	var winners []*Listener
	for range many {
		if l := await.Value(t, "the end of each try", won); l != nil {
			winners = append(winners, l)
		}
	}
	if len(winners) != 1 {
		t.Fatalf("%d winners", len(winners))
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := winners[0].socket.Accept()
		if err == nil {
			err = conn.Close()
		}
		accepted <- err
	}()
	dial(t, path)
	must(t, await.Value(t, "a connection", accepted))
	must(t, winners[0].Close())
}

func inside(_ *testing.T, dir string) string { return filepath.Join(dir, "control.sock") }

func write(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is what is in a directory, but for lock files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !strings.HasSuffix(path, ".lock") {
			fmt.Fprintf(&b, "%s ", entry)
		}
		return err
	}))
	return b.String()
}
