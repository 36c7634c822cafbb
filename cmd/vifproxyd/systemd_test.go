package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/cgroup"
)

// systemd says to the daemon which process it is, as systemd does.
func (s *site) systemd() []string {
	if s.user == 0 {
		return nil
	}
	return []string{"sh", "-c", `export LISTEN_PID=$$ SYSTEMD_EXEC_PID=$$; exec "$0" "$@"`}
}

// startInUnit starts the daemon as its unit does: in a delegated cgroup, with what vifproxy-switchboard has handed over. A daemon that is
// root is started by hand.
func (s *site) startInUnit(daemon *exec.Cmd) {
	s.Helper()
	if s.user == 0 {
		s.must(daemon.Start())
		return
	}
	group := s.delegatedGroup()
	defer group.Close()
	within := &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	daemon.SysProcAttr = within
	loaded := s.loadSwitchboard(within)
	s.keep(loaded)
	var names []string
	for _, f := range loaded {
		names = append(names, f.Name())
		daemon.ExtraFiles = append(daemon.ExtraFiles, f)
	}
	daemon.Env = append(daemon.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	s.must(daemon.Start())
}

// bindingsOfSwitchboard returns what the switchboard holds that was loaded last, as the number of a socket by the index of a vif and the
// address of an AppVM.
func (s *site) bindingsOfSwitchboard() (map[[8]byte]uint64, error) {
	s.storeMu.Lock()
	defer s.storeMu.Unlock()
	i := slices.IndexFunc(s.store, func(f *os.File) bool { return f.Name() == handover.Bindings.Name })
	if i < 0 {
		return nil, nil
	}
	fd, err := unix.FcntlInt(s.store[i].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	bindings, err := ebpf.NewMapFromFD(fd)
	if err != nil {
		return nil, err
	}
	defer bindings.Close()
	all := map[[8]byte]uint64{}
	var key [8]byte
	var socket uint64
	each := bindings.Iterate()
	for each.Next(&key, &socket) {
		all[key] = socket
	}
	if err := each.Err(); !errors.Is(err, ebpf.ErrIterationAborted) {
		return all, err
	}
	return all, nil
}

// stored returns a copy of a descriptor that systemd keeps.
func (s *site) stored(name string) int {
	s.Helper()
	s.storeMu.Lock()
	defer s.storeMu.Unlock()
	i := slices.IndexFunc(s.store, func(f *os.File) bool { return f.Name() == name })
	if i < 0 {
		s.Fatalf("systemd has no %s", name)
	}
	fd, err := unix.FcntlInt(s.store[i].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	s.must(err)
	return fd
}

// detachProgram does what `bpftool link detach` does.
func (s *site) detachProgram(name string) {
	s.Helper()
	l, err := link.NewFromFD(s.stored(name))
	s.must(err)
	defer l.Close()
	s.must(l.Detach())
}

// keep stores descriptors in the place of those before.
func (s *site) keep(files []*os.File) {
	s.storeMu.Lock()
	defer s.storeMu.Unlock()
	for _, f := range s.store {
		f.Close()
	}
	s.store = files
}

// delegatedGroup makes a cgroup that belongs to the daemon's user.
func (s *site) delegatedGroup() *os.File {
	s.Helper()
	own, err := cgroup.Own()
	s.must(err)
	dir, err := os.MkdirTemp(own, "vifproxy-test-")
	s.must(err)
	s.Cleanup(func() {
		s.must(writeFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0))
		proxies, _ := filepath.Glob(filepath.Join(dir, "*", "*", "cgroup.procs"))
		below, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, path := range append(append(proxies, below...), filepath.Join(dir, "cgroup.procs")) {
			for errors.Is(os.Remove(filepath.Dir(path)), unix.EBUSY) {
				time.Sleep(time.Millisecond)
			}
		}
	})
	for _, file := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		s.must(os.Chown(filepath.Join(dir, file), s.user, -1))
	}
	group, err := os.Open(dir)
	s.must(err)
	return group
}

// loadSwitchboard runs vifproxy-switchboard in a cgroup, and returns what it hands over.
func (s *site) loadSwitchboard(within *syscall.SysProcAttr) []*os.File {
	s.Helper()
	path := filepath.Join(s.dir, "handover.sock")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	s.must(err)
	defer os.Remove(path)
	defer socket.Close()
	raw, err := socket.SyscallConn()
	s.must(err)
	s.must(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }))
	s.must(err)
	program := s.Command(s.Context(), filepath.Join(programs, "vifproxy-switchboard"))
	program.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	program.Stdout, program.Stderr = os.Stderr, os.Stderr
	program.SysProcAttr = within
	s.must(program.Start())
	s.must(socket.SetReadDeadline(time.Now().Add(patience)))
	files, err := handover.Keep(socket, program.Process.Pid)
	s.must(errors.Join(err, program.Wait()))
	return files
}
