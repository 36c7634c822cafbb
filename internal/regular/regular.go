// Package regular opens files whose path somebody else has chosen, and replaces such files. Such a path may lead to a FIFO, whose opening
// waits for its other end, or to a device.
//
// Concurrency: any goroutine may call anything here.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNotRegular is the error of a path that leads to something else than a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Open opens a regular file as os.OpenFile does, and returns what it was at that moment. It never waits.
func Open(path string, flags int, mode fs.FileMode) (*os.File, fs.FileInfo, error) {
	file, err := os.OpenFile(path, flags|syscall.O_NONBLOCK|syscall.O_NOCTTY, mode)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is %w", path, ErrNotRegular)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// A reader reads an open file, and never waits for more. Package os would: a few files of /proc and /sys count as regular and have no end,
// and who reads /proc/kmsg so waits until the kernel says something.
type reader struct{ file *os.File }

func (r reader) Read(p []byte) (n int, err error) {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error = syscall.EINTR
	err = raw.Read(func(fd uintptr) bool {
		for errors.Is(failed, syscall.EINTR) {
			n, failed = syscall.Read(int(fd), p)
		}
		return true
	})
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failed, syscall.EAGAIN):
		return 0, &fs.PathError{Op: "read", Path: r.file.Name(), Err: errors.New("it has no end")}
	case failed != nil:
		return 0, &fs.PathError{Op: "read", Path: r.file.Name(), Err: failed}
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// ReadAll returns what an open file begins with, at most max bytes.
func ReadAll(file *os.File, max int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(reader{file}, max))
}

// Read returns what a regular file holds that is no link. A file of more than max bytes is an error.
func Read(path string, max int) ([]byte, error) {
	file, _, err := Open(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := ReadAll(file, int64(max)+1)
	if err == nil && len(text) > max {
		err = fmt.Errorf("it is longer than %d bytes", max)
	}
	return text, err
}

// Replace replaces a file in one step, and returns when it is on the disk. It makes the directory if there is none. The group may read the
// file, whatever the umask is.
func Replace(path string, text []byte) error { return replace(path, text, 0o640) }

// ReplacePrivate does so for a file that only its owner may read.
func ReplacePrivate(path string, text []byte) error { return replace(path, text, 0o600) }

func replace(path string, text []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Chmod(mode), file.Sync())
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	return dir.Sync()
}

// Same reports whether two paths lead to one file. If there is no file, it reports whether the paths are the same.
func Same(a, b string) bool {
	one, err1 := os.Stat(a)
	other, err2 := os.Stat(b)
	if err1 == nil && err2 == nil {
		return os.SameFile(one, other)
	}
	a, err1 = filepath.Abs(a)
	b, err2 = filepath.Abs(b)
	return err1 == nil && err2 == nil && a == b
}
