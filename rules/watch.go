package rules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// retryWatch is how long to wait before another attempt to watch a directory that is there and cannot be
// watched.
const retryWatch = 5 * time.Second

// Watch calls wake after whatever may have changed what [Read] returns for dir and template, and once when it
// has begun to watch. Wakes are hints: there may be too many of them, and the content of a file behind a
// symbolic link can change without one. Watch ends with ctx and returns nil, or returns an error if it can
// never work.
//
// The directories may be missing, come later and be replaced, and so may those above them. Therefore all of
// them up to the root are watched, and all watches are made anew when one of them changes.
func Watch(ctx context.Context, log *slog.Logger, dir, template string, wake func()) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("watch rule directory: %w", err)
	}
	template, err = filepath.Abs(template)
	if err != nil {
		return fmt.Errorf("watch template: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch rule directory: %w", err)
	}
	failures := drain(watcher)
	defer func() {
		watcher.Close()
		for range failures { // ends when the watcher has ended
		}
	}()

	paths := withAncestors(dir, filepath.Dir(template))
	var retry <-chan time.Time
	var said string
	renew := func() {
		if err := watchAll(watcher, paths); err != nil {
			retry = time.After(retryWatch)
			if err.Error() != said {
				log.Warn("changes of the rules may go unnoticed", "err", err)
			}
			said = err.Error()
		} else {
			retry, said = nil, ""
		}
		wake()
	}
	renew()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
			renew()
		case err := <-failures:
			// Events were lost (the kernel's queue ran over), or a directory went just now.
			log.Warn("watching the rules again", "err", err)
			renew()
		case event := <-watcher.Events:
			name := filepath.Clean(event.Name) // what happens in "/" comes as "//name"
			if slices.Contains(paths, name) {
				renew()
			} else if concerns(filepath.Base(name), filepath.Base(template)) {
				wake()
			}
		}
	}
}

// concerns tells whether a file of this name can change what Read returns.
func concerns(base, template string) bool {
	_, addr, err := ParseFileName(base)
	return addr.IsValid() || err != nil || base == template
}

// withAncestors returns the directories and those above them, each after the one above it: a directory that
// appears while the watches are made is then either watched itself or reported by the one above.
func withAncestors(dirs ...string) []string {
	var all []string
	for _, dir := range dirs {
		for all = append(all, dir); dir != filepath.Dir(dir); all = append(all, dir) {
			dir = filepath.Dir(dir)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// watchAll watches those of the directories that exist.
func watchAll(watcher *fsnotify.Watcher, paths []string) error {
	var errs []error
	for _, path := range paths {
		// An old watch belongs to what was at this path then. That there is none is no error.
		_ = watcher.Remove(path)
		if err := watcher.Add(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("watch %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// drain takes errors from the watcher until it is closed and keeps the newest. They must be taken at any
// time: the watcher sends some of them while it holds the lock that its own Add, Remove and Close need
// (handleEvent in backend_inotify.go of fsnotify 1.10).
func drain(watcher *fsnotify.Watcher) <-chan error {
	newest := make(chan error, 1)
	go func() {
		defer close(newest)
		for err := range watcher.Errors {
			select {
			case <-newest:
			default:
			}
			newest <- err
		}
	}()
	return newest
}
