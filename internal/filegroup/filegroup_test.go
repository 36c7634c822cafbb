package filegroup

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const gid = 0x70123456

// role has the test program look at itself as somebody with other rights.
const role = "VIFPROXY_TEST_ROLE"

func TestMain(m *testing.M) {
	switch name, path, _ := strings.Cut(os.Getenv(role), ":"); name {
	case "owner":
		// With no capability but CAP_SETGID, what is there already can be given to the group too.
		if err := As(gid, func() error { return os.Lchown(path, -1, gid) }); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	case "nobody":
		// Without CAP_SETGID there must be an error, and no file of another group.
		err := As(gid, func() error { panic("called") })
		if !errors.Is(err, unix.EPERM) {
			println("without CAP_SETGID:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestAs(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	failed := errors.New("failed")
	err := As(gid, func() error {
		socket, err := net.Listen("unix", path("socket"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { socket.Close() })
		return errors.Join(os.WriteFile(path("file"), nil, 0o600), os.Mkdir(path("dir"), 0o700), failed)
	})
	if !errors.Is(err, failed) {
		t.Error(err)
	}
	if err := os.WriteFile(path("later"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"file": gid, "dir": gid, "socket": gid, "later": uint32(os.Getegid()),
	} {
		info, err := os.Stat(path(name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Gid; got != want {
			t.Errorf("%s belongs to group %d, want %d", name, got, want)
		}
	}
}

func TestAsWithoutPrivilege(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=nobody")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestOwnerGivesAFileAway(t *testing.T) {
	const owner = 64123
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, owner, 0),
		os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), role+"=owner:"+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: owner}, AmbientCaps: []uintptr{unix.CAP_SETGID}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if info, err := os.Stat(path); err != nil || info.Sys().(*syscall.Stat_t).Gid != gid {
		t.Errorf("%+v, %v", info, err)
	}
}
