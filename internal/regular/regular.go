// Package regular opens files whose path somebody else has chosen. Such a path may lead to a FIFO, whose opening waits for its other
// end, or to a device.
//
// Concurrency: any goroutine may call anything here.
package regular

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
