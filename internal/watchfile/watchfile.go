// Package watchfile tells of changes of files wherever links lead to them.
//
// A path is followed link by link, and each directory on the way is watched for the entry that the path passes. So it is
// seen when a file is written behind a link, a link is pointed elsewhere (`ln -sfn`, the atomic swaps of Kubernetes and
// stow), a directory on the way is renamed, replaced, removed, or comes. A file itself is watched as well, since a write
// through another name of it, a hard link, is no event of the directory. When something is mounted or unmounted, all paths are
// followed again.
//
// It uses inotify itself and not fsnotify, which does not pass on IN_CLOSE_WRITE (as of 1.10.1, unexported
// xUnportableCloseWrite): the one event that says that a file is complete.
package watchfile

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/unanswered"
)

const (
	// watchesMax is how many directories and files one Watch watches. The kernel keeps about 1 KiB for each.
	watchesMax = 1024
	// retry is how long to wait before another attempt to watch what cannot be watched.
	retry = 5 * time.Second
	// modified is how often a file that is being written is told of before it is closed.
	modified = time.Second
	// mountsInterval is the time between two looks at all paths because something was mounted. A machine that starts mounts a lot.
	mountsInterval = 100 * time.Millisecond
	// walksMax bounds how often all paths are followed because they have changed meanwhile.
	walksMax = 10
)

// renewTimeout is how long renewing the watches may take until that is told.
var renewTimeout = 2 * time.Second

var errSlow = errors.New("a directory or file to watch is on a file system that does not answer")

// Masks of inotify(7). A read is no event, or reading what has changed would be one.
const (
	entries  = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_ATTRIB
	contents = unix.IN_MODIFY | unix.IN_CLOSE_WRITE
	itself   = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
)

// A Watch is what is to be watched, and who is told.
type Watch struct {
	// Paths returns the files and directories that matter, the most important first. It is called again whenever
	// something has changed.
	Paths func() []string
	// Dirs are directories of which some entries matter.
	Dirs []Dir
	// Changed is called when something has changed, or may have, and once when the watches are there.
	Changed func()
	// Report is called before Changed, whenever the watches have been renewed, or cannot be for a while: with nil, or with
	// why not all changes are seen.
	Report func(error)
}

// A Dir is a directory whose entries matter if Concerns says so of their names.
type Dir struct {
	Path     string
	Concerns func(name string) bool
}

// Run watches until ctx ends, and returns nil then. An error means that it cannot watch at all.
func (w Watch) Run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	r := &run{Watch: w, file: os.NewFile(uintptr(fd), "inotify"), fd: fd}
	defer r.file.Close()
	mounts, err := openMounts()
	if err != nil {
		return err
	}
	defer mounts.file.Close()
	outer := ctx
	ctx, cancel := context.WithCancelCause(outer)
	defer context.AfterFunc(ctx, r.interrupt)()
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel(nil)
	beside.Go(func() {
		cancel(mounts.follow(ctx, func() {
			r.mounted.Store(true)
			r.interrupt()
		}))
	})
	err = r.loop(ctx)
	if outer.Err() != nil {
		return nil
	}
	return cmp.Or(err, context.Cause(ctx))
}

// interrupt has the loop wait no longer for events.
func (r *run) interrupt() { _ = r.file.SetReadDeadline(time.Unix(1, 0)) }

// run is a Watch at work.
type run struct {
	Watch
	file     *os.File
	fd       int
	watched  map[int32]*place
	targeted []target    // what was to be watched when the watches were renewed
	told     time.Time   // when a file was last told of that is being written
	mounted  atomic.Bool // something was mounted or unmounted since the watches were renewed
	ends     []end       // what paths led to at the last of these; nil if something else has happened since
	renewed  time.Time   // when the watches were renewed
	failed   bool        // and whether that failed
}

// A place is what one watch is for: a directory, perhaps under several names, or a file.
type place struct {
	names map[string]bool // entries that matter
	holds bool            // what is in some of them matters, and not only where they lead
	dirs  []Dir           // as which other entries matter
	file  bool
}

// eventSize is how many bytes of events are read at once. An event has 272 bytes at most.
const eventSize = 4 << 10

// loop renews the watches and takes events in turns.
func (r *run) loop(ctx context.Context) error {
	buffer := make([]byte, eventSize)
	renew := true
	var later time.Time // when to renew, or tell, although no event comes; zero: not
	for {
		if renew || r.mounted.Load() && time.Since(r.renewed) >= mountsInterval {
			r.mounted.Store(false)
			news, err := r.renewOrTell(!renew)
			if renew || news || err != nil || r.failed {
				later = time.Time{}
				if err != nil {
					later = time.Now().Add(retry)
				}
				r.failed, renew = err != nil, false
				r.Report(err)
				r.Changed()
			}
			r.renewed = time.Now()
		}
		deadline, mounted := later, r.mounted.Load()
		if soon := r.renewed.Add(mountsInterval); mounted && (later.IsZero() || soon.Before(later)) {
			deadline = soon
		}
		if err := r.file.SetReadDeadline(deadline); err != nil {
			return err
		}
		if ctx.Err() != nil { // whose deadline that may have taken the place of
			return nil
		}
		if r.mounted.Load() != mounted { // likewise
			continue
		}
		n, err := r.file.Read(buffer)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if ctx.Err() != nil {
				return nil
			}
			renew = !later.IsZero() && !time.Now().Before(later) // else something was mounted
			continue
		case err != nil:
			return err
		}
		var changed, writing bool
		renew, changed, writing = r.look(buffer[:n])
		switch {
		case renew:
		case changed, writing && time.Since(r.told) >= modified:
			r.told = time.Now()
			r.Changed()
		case writing && (later.IsZero() || time.Until(later) > modified):
			later = r.told.Add(modified)
		}
	}
}

// look reads events: whether paths may lead elsewhere, whether a file has changed, and whether one is being written.
func (r *run) look(events []byte) (moved, changed, writing bool) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		name := strings.TrimRight(string(events[unix.SizeofInotifyEvent:size]), "\x00")
		events = events[size:]
		p := r.watched[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			moved = true
		case p == nil: // it was not needed any more
		case mask&(itself|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
			moved = true
		case name != "" && !p.concerns(name):
		case name == "" && !p.file && mask&unix.IN_ATTRIB == 0:
		case mask&entries != 0:
			moved = true
		case mask&unix.IN_CLOSE_WRITE != 0:
			changed = true
		case mask&unix.IN_MODIFY != 0:
			writing = true
		}
	}
	return moved, changed, writing
}

// concerns reports whether an entry matters.
func (p *place) concerns(name string) bool {
	return p.names[name] || slices.ContainsFunc(p.dirs, func(d Dir) bool { return d.Concerns(name) })
}

// renewOrTell renews the watches. While a file system on the way does not answer, that is told, and changes are not seen. If the watches are
// renewed only because something was mounted or unmounted, it reports whether paths lead elsewhere since then, or that was told.
func (r *run) renewOrTell(mounted bool) (news bool, err error) {
	told := make(chan struct{})
	late := unanswered.AfterFunc(renewTimeout, func() {
		defer close(told)
		r.Report(errSlow)
		r.Changed()
	})
	first := r.watched == nil
	if err = r.renew(); mounted || first {
		news = r.leadElsewhere(r.targeted)
	} else {
		r.ends = nil
	}
	if !late.Stop() {
		<-told
		news = true
	}
	return news, err
}

// renew makes the watches be those that the paths ask for now.
func (r *run) renew() error {
	var before []target
	for range walksMax {
		targets, excess := r.targets()
		r.targeted = targets
		if slices.EqualFunc(before, targets, target.equal) {
			return excess
		}
		before = targets
		if err := r.watch(targets); err != nil {
			return errors.Join(err, excess)
		}
	}
	return errors.New("the directories that lead to the files change all the time")
}

// A target is a directory or a file to be watched.
type target struct {
	path string
	place
}

// equal reports whether a walk has come to the same as another one.
func (t target) equal(u target) bool {
	return t.path == u.path && t.holds == u.holds && len(t.dirs) == len(u.dirs) && t.file == u.file && maps.Equal(t.names, u.names)
}

// targets follows all paths. The error says what is beyond watchesMax.
func (r *run) targets() (all []target, excess error) {
	index := map[string]int{}
	add := func(path string) *target {
		i, there := index[path]
		if !there {
			i = len(all)
			index[path] = i
			all = append(all, target{path, place{names: map[string]bool{}}})
		}
		return &all[i]
	}
	paths := r.Paths()
	for _, dir := range slices.Backward(r.Dirs) {
		paths = append([]string{dir.Path}, paths...)
	}
	for i, path := range paths {
		if len(all) >= watchesMax {
			return all[:watchesMax], fmt.Errorf("more than %d directories and files to watch: %s and %d more are not",
				watchesMax, path, len(paths)-i-1)
		}
		steps, end, _ := follow(path) // a path that leads nowhere is an error for who reads it
		for _, s := range steps {
			add(s.dir).names[s.name] = true
		}
		if len(steps) > 0 {
			add(steps[len(steps)-1].dir).holds = true
		}
		if end == "" {
			continue
		}
		if t := add(end); i < len(r.Dirs) {
			t.dirs, t.holds = append(t.dirs, r.Dirs[i]), true
		} else if info, err := os.Lstat(end); err == nil && !info.IsDir() {
			t.file = true
		}
	}
	return all, nil
}

// watch has the kernel watch these and nothing else.
func (r *run) watch(targets []target) error {
	var errs []error
	watched := make(map[int32]*place, len(targets))
	for _, t := range targets {
		mask := uint32(entries | itself | unix.IN_MASK_ADD)
		if t.holds || t.file { // else every write to a file in /run or /tmp would wake
			mask |= contents
		}
		if !t.file {
			mask |= unix.IN_ONLYDIR
		}
		wd, err := unix.InotifyAddWatch(r.fd, t.path, mask)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			continue // it has gone since: the next walk sees that
		case errors.Is(err, unix.ENOSPC):
			err = fmt.Errorf("%w: raise the sysctl fs.inotify.max_user_watches", err)
			fallthrough
		case err != nil:
			errs = append(errs, fmt.Errorf("watch %s: %w", t.path, err))
			continue
		}
		p := watched[int32(wd)]
		if p == nil {
			p = &place{names: map[string]bool{}}
			watched[int32(wd)] = p
		}
		for name := range t.names {
			p.names[name] = true
		}
		p.dirs, p.file = append(p.dirs, t.dirs...), p.file || t.file
	}
	for wd := range r.watched {
		if watched[wd] == nil {
			_, _ = unix.InotifyRmWatch(r.fd, uint32(wd)) // it may have gone by itself
		}
	}
	r.watched = watched
	if len(errs) > 3 { // of thousands, all for one reason, these
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}
