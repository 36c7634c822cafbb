// Package cgroup finds control groups of version 2 (cgroups(7)).
//
// Concurrency: any goroutine may call anything here.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone is the error if this process sees no cgroups of version 2.
var ErrNone = errors.New("no cgroup2 is mounted")

// Subgroups of a unit's group.
const (
	Daemon  = "daemon"   // where vifproxyd moves to
	control = ".control" // where systemd runs ExecStartPre= of a unit with Delegate= (exec_params_get_cgroup_path in src/core/execute.c of v257)
)

// usual is where systemd mounts cgroups. Others may mount them a second time elsewhere, where not everybody passes.
const usual = "/sys/fs/cgroup"

// Own returns the directory of this process's group, from /proc/self/cgroup and the mount point of cgroup2.
func Own() (string, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(own)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		var places []string
		for mount := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(mount); len(fields) > 2 && fields[2] == "cgroup2" {
				places = append(places, fields[1])
			}
		}
		if len(places) == 0 {
			break
		}
		i := slices.IndexFunc(places, func(at string) bool { return strings.HasPrefix(at, usual) })
		return filepath.Join(places[max(i, 0)], path), nil
	}
	return "", ErrNone
}

// Unit returns the directory of the group of the unit that a group belongs to, which may be one of the unit's subgroups.
func Unit(dir string) string {
	if base := filepath.Base(dir); base == Daemon || base == control {
		return filepath.Dir(dir)
	}
	return dir
}

// Processes returns those in a group and in all below it. A group that goes meanwhile has none.
func Processes(dir string) (pids []int, err error) {
	var system unix.Statfs_t
	if err := unix.Statfs(dir, &system); err != nil {
		return nil, fmt.Errorf("look at the cgroup %s: %w", dir, err)
	}
	if system.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("%s is no cgroup of version 2", dir)
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for line := range strings.FieldsSeq(string(list)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			pids = append(pids, pid)
		}
		return nil
	})
	slices.Sort(pids)
	return pids, err
}

// Kill ends the processes in a group and in all below it. One that is forked meanwhile may live before Linux 5.14, so callers try again
// until the group can be removed.
func Kill(dir string) error {
	// Not os.WriteFile: it would make the file, which the kernel refuses in another way.
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0) // since Linux 5.14
	if errors.Is(err, fs.ErrNotExist) {
		return killEach(dir)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString("1")
	return errors.Join(err, f.Close())
}

func killEach(dir string) error {
	pids, err := Processes(dir)
	for _, pid := range pids {
		fd, gone := unix.PidfdOpen(pid, 0)
		if gone != nil {
			continue
		}
		// The number may have been given to another process before it was opened.
		if now, failed := Processes(dir); failed == nil && slices.Contains(now, pid) {
			if e := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); !errors.Is(e, unix.ESRCH) {
				err = errors.Join(err, e)
			}
		}
		unix.Close(fd)
	}
	return err
}
