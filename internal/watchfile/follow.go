package watchfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// linksMax is how many links the kernel follows on one path (MAXSYMLINKS in Linux' include/linux/namei.h).
const linksMax = 40

// A step is an entry of a directory that a path leads through.
type step struct {
	dir  string // without links
	name string
}

// follow walks along a path as the kernel does, and returns all entries that it passes: where one of them changes, the
// path may lead elsewhere. The last is what the path leads to, if that is there; end is its path without links, or "". The
// error says why a path leads nowhere for ever, as a loop does.
func follow(path string) (steps []step, end string, err error) {
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return nil, "", err
		}
		path = wd + "/" + path // not cleaned: "link/.." is not what is before it
	}
	at, rest := "/", path
	for links := 0; ; {
		name, after, more := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch name {
		case "":
			return steps, at, nil
		case ".":
			rest = after
			continue
		case "..":
			at, rest = filepath.Dir(at), after
			continue
		}
		steps = append(steps, step{at, name})
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			return steps, "", nil
		case err != nil:
			return steps, "", err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > linksMax {
				return steps, "", &fs.PathError{Op: "follow", Path: path, Err: syscall.ELOOP}
			}
			target, err := os.Readlink(next)
			if err != nil {
				return steps, "", nil // it has just been replaced, which is told
			}
			if strings.HasPrefix(target, "/") {
				at = "/"
			}
			if rest = target; more {
				rest += "/" + after
			}
		case !info.IsDir():
			if more {
				return steps, "", nil // a file in the place of a directory
			}
			return steps, next, nil
		default:
			at, rest = next, after
		}
	}
}
