package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// private matches the names of private groups: the process id, for people, and something random.
var private = regexp.MustCompile(`^vifproxyd-[0-9]+-[0-9]+$`)

// A Private is a group that this process has made for itself and for what it starts. It has no controllers and no limits, and may have
// groups in it. Its directory is locked (flock(2)) as long as this process lives, so that a later one knows which groups have been left.
type Private struct {
	Dir  string
	home string // the group before
	lock *os.File
}

// Enter makes a private group below the one that this process is in, and moves this process there. It removes what processes that were
// killed have left beside it.
func Enter() (*Private, error) {
	home, err := Own()
	if err != nil {
		return nil, err
	}
	if err := RemoveLeft(); err != nil {
		return nil, err
	}
	p := &Private{home: home}
	for range leftTries {
		if p.Dir, err = os.MkdirTemp(home, fmt.Sprintf("vifproxyd-%d-", os.Getpid())); err != nil {
			return nil, err
		}
		if p.lock, err = lock(p.Dir); err == nil {
			break // nobody has taken it for a group that was left
		}
	}
	if err != nil {
		return nil, err
	}
	if err := move(p.Dir); err != nil {
		p.lock.Close()
		return nil, errors.Join(err, os.Remove(p.Dir))
	}
	return p, nil
}

// Leave moves this process back, ends what else is in the group, and removes it.
func (p *Private) Leave() error {
	defer p.lock.Close()
	if err := move(p.home); err != nil {
		return err
	}
	return remove(p.Dir)
}

// RemoveLeft removes the private groups beside this process that have been left, with what is in them.
func RemoveLeft() error {
	home, err := Own()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !private.MatchString(e.Name()) {
			continue
		}
		dir := filepath.Join(home, e.Name())
		held, err := lock(dir)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = remove(dir)
		held.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lock locks a directory that exists. The error is EWOULDBLOCK if another process has locked it.
func lock(dir string) (_ *os.File, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	_, err = os.Stat(dir) // its name is given to no other
	return f, err
}

func move(dir string) error { return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0) }

// A group can be removed once the kernel has taken away what was in it.
const (
	leftTries = 500
	leftPause = time.Millisecond
)

// remove ends what is left in a group, and removes it with the groups in it.
func remove(dir string) (err error) {
	for range leftTries {
		_ = Kill(dir)                                                      // otherwise the group stays, and the error says so
		below, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs")) // the pattern is right
		for _, procs := range below {
			_ = os.Remove(filepath.Dir(procs)) // otherwise the next line fails
		}
		if err = os.Remove(dir); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(leftPause)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
