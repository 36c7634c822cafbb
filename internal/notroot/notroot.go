// Package notroot says what a person can do about a file that the daemon may not use because it is not root. Its unit has it run
// as a user of its own, in root's group.
//
// Concurrency: any goroutine may call anything here.
package notroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

const (
	// InGroup is why a file of root is not readable for the daemon.
	InGroup = "vifproxyd is not root, but in root's group"
	// MakeReadable is what to do about such a file or directory.
	MakeReadable = "chgrp root and chmod g+rX it, or chmod a+rX"
)

// WithRemedy returns err. If it comes of missing rights, it says so and adds the remedy.
func WithRemedy(err error, remedy string) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w (uid %d may not write there: %s)", err, os.Geteuid(), remedy)
	}
	return err
}

// AddToUnit returns how an administrator adds a setting to the unit.
func AddToUnit(setting string) string {
	return "add " + setting + " to the unit with `systemctl edit vifproxyd`"
}

// Unreadable reports whether a file or directory exists that root's group may not read.
func Unreadable(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	mode, group := info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Gid
	return mode&0o004 == 0 && (group != 0 || mode&0o040 == 0)
}
