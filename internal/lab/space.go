package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	spacesDir  = "/run/netns" // where iproute2 looks for named namespaces
	etcDir     = "/etc/netns" // and for the files it shows to programs started in one
	namePrefix = "vifproxylab-"
)

// Hosts is what hosts(5) of the firewall VM says at first.
const Hosts = "127.0.0.1 localhost\n"

// space is a network namespace with a name, so that a person can look into it with `ip netns exec`.
type space struct {
	name string

	mu sync.RWMutex // a client that gave up may still be on its way in when the lab is closed
	ns netns.NsHandle
}

func newSpace(name string) (*space, error) {
	if err := shareSpaces(); err != nil {
		return nil, err
	}
	s := &space{name: name}
	err := onThread(func() (err error) {
		if err := ownTable(); err != nil {
			return err
		}
		s.ns, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	return s, nil
}

// places is how many places the kernel's table of TCP connections has in a VM of 400 MB: one for each 128 KiB, and a power of two (tcp_init
// in net/ipv4/tcp.c).
const places = "4096"

// ownTable moves this thread to a new namespace, whose children get a table of connections of their own, as large as a VM's. Otherwise
// all share the machine's, and on a large machine a look into it takes milliseconds. Before Linux 6.1 all share it.
func ownTable() error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer ns.Close()
	err = os.WriteFile("/proc/sys/net/ipv4/tcp_child_ehash_entries", []byte(places), 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// shareSpaces does what the first `ip netns add` after boot does: it makes /run/netns a shared mount, so that
// a namespace unmounted here also leaves the mount namespaces of programs that `ip netns exec` started.
func shareSpaces() error {
	if err := os.MkdirAll(spacesDir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", spacesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(spacesDir, spacesDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", spacesDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount (are you root?): %w", spacesDir, err)
	}
	return nil
}

// do runs f on a thread inside the namespace. Files under /proc/sys/net, new sockets and new child processes
// belong to the namespace; goroutines that f starts do not.
func (s *space) do(f func() error) error {
	return onThread(func() error {
		s.mu.RLock()
		err := netns.Set(s.ns)
		s.mu.RUnlock()
		if err != nil {
			return fmt.Errorf("enter namespace %s: %w", s.name, err)
		}
		return f()
	})
}

// resolve has programs that Command starts in the namespace ask the lab's name servers, and read a hosts(5) of the lab.
func (s *space) resolve() error {
	etc := filepath.Join(etcDir, s.name)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("nameserver %v\nnameserver %v\n", NameServers[0], NameServers[1])
	return errors.Join(os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(etc, "hosts"), []byte(Hosts), 0o644))
}

func (s *space) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(removeNamed(s.name), s.ns.Close())
}

// onThread runs f on a thread of its own that f may move to another network namespace. It uses a goroutine of
// its own because a thread that cannot be moved back must end, and a thread ends with its locked goroutine.
func onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errors.New("the function ended its goroutine (t.Fatal and the like belong outside)")
		defer func() { result <- err }()
		runtime.LockOSThread()
		home, homeErr := netns.Get()
		if homeErr != nil {
			runtime.UnlockOSThread()
			err = homeErr
			return
		}
		defer home.Close()
		defer func() {
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = f()
	}()
	return <-result
}

// Reclaim removes the namespaces of labs whose owner has ended without Close, and ends what still runs in
// them. The owner's pid and start time are part of each name, so a reused pid deceives nobody.
func Reclaim() error {
	var problems []error
	names := map[string]bool{}
	for _, dir := range []string{spacesDir, etcDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool {
		rest, ours := strings.CutPrefix(name, namePrefix)
		return !ours || ownerLives(rest)
	})
	if len(names) == 0 {
		return errors.Join(problems...)
	}
	problems = append(problems, endInside(slices.Collect(maps.Keys(names))...))
	for name := range names {
		problems = append(problems, removeNamed(name))
	}
	return errors.Join(problems...)
}

// ownedName starts the names of everything that lab number n of this process makes.
func ownedName(lab string) (string, error) {
	start, err := startTime(os.Getpid())
	return fmt.Sprintf("%s%d-%s-%s", namePrefix, os.Getpid(), start, lab), err
}

func ownerLives(rest string) bool {
	parts := strings.SplitN(rest, "-", 3)
	if len(parts) != 3 {
		return true // not a name of our making
	}
	pid, err := strconv.Atoi(parts[0])
	if err != nil {
		return true
	}
	start, err := startTime(pid)
	return err == nil && start == parts[1]
}

// startTime returns when a process started, in clock ticks since boot; together with the pid this names one
// process for ever. It is field 22 of proc_pid_stat(5); the second field may hold blanks and parentheses. A
// process that has ended and that nobody has waited for is none any more.
func startTime(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has only %d fields after the name", pid, len(fields))
	}
	if state := string(fields[0]); state == "Z" || state == "X" {
		return "", os.ErrProcessDone
	}
	return string(fields[19]), nil
}

// removeNamed takes a namespace's name away, and its files in /etc/netns. The namespace itself ends with its
// last process and socket.
func removeNamed(name string) error {
	path := filepath.Join(spacesDir, name)
	// EINVAL: not a mount; a lab that was killed while it made the namespace leaves a plain file.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(filepath.Join(etcDir, name))
}

// endInside kills every process in namespaces of labs and waits until all have ended.
func endInside(names ...string) error {
	inside := map[inode]bool{}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(spacesDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		inside[inodeOf(info)] = true
	}
	if len(inside) == 0 {
		return nil
	}
	for again := true; again; { // they may fork meanwhile
		again = false
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, p := range processes {
			pid, _ := strconv.Atoi(filepath.Base(p))
			if pid == os.Getpid() {
				continue
			}
			killed, err := killIn(pid, inside)
			if err != nil {
				return fmt.Errorf("end process %d in one of the namespaces %s: %w", pid, strings.Join(names, ", "), err)
			}
			again = again || killed
		}
	}
	return nil
}

// inode is one file, or namespace.
type inode struct{ dev, ino uint64 }

func inodeOf(info os.FileInfo) inode {
	stat := info.Sys().(*syscall.Stat_t)
	return inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // 32 bits on some
}

// killIn kills pid if it is in one of the given namespaces. It looks only after it holds the process by a pidfd.
func killIn(pid int, inside map[inode]bool) (killed bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // gone, or a thread
	}
	defer unix.Close(fd)
	ns, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil || !inside[inodeOf(ns)] {
		return false, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
		return false, err
	}
	return true, awaitExit(fd, 5*time.Second)
}

// awaitExit waits until the process behind a pidfd has ended.
func awaitExit(pidfd int, bound time.Duration) error {
	deadline := time.Now().Add(bound)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("still running after %v", bound)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n == 1 {
			return nil
		}
		if err != nil && err != unix.EINTR {
			return err
		}
	}
}
