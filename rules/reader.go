package rules

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"
)

// readTimeout is how long a Reader waits for the file system. A file behind a link may be on one that does not answer.
const readTimeout = 2 * time.Second

var errSlow = fmt.Errorf("the rule directory, or a file that a link in it leads to, cannot be read within %v: "+
	"its file system does not answer", readTimeout)

// A Reader reads a rule directory and a template again and again, and knows without reading whether they have changed
// since. No call waits for the file system for much longer than readTimeout; as long as that does not answer to an earlier
// one, all fail.
type Reader struct {
	dir, template string
	busy          chan struct{} // holds a token while something is being read

	// Below is for who has put the token there.
	stamps map[string]stamp // of what the last Read looked at, by path
	paths  map[netip.Addr][]string
}

// NewReader returns a Reader of the directory dir and the template.
func NewReader(dir, template string) *Reader {
	return &Reader{dir: dir, template: template, busy: make(chan struct{}, 1)}
}

// Read returns what the function Read does, but believes no file that is not complete: such a one is among the Refused, or
// is the TemplateErr, with an *Error that is Unsettled.
func (r *Reader) Read() (Set, error) {
	type answer struct {
		loaded
		again time.Duration
		err   error
	}
	a, ok := inTime(r.busy, func() (a answer) {
		a.loaded, a.again, a.err = r.load()
		return a
	})
	if !ok {
		return Set{}, errSlow
	}
	if a.err != nil {
		return Set{}, a.err
	}
	set := a.parse()
	set.Again = a.again
	return set, nil
}

// inTime returns what f does, which has the token meanwhile. It reports false if that takes too long; f goes on then.
func inTime[T any](token chan struct{}, f func() T) (answer T, ok bool) {
	timer := time.NewTimer(readTimeout)
	defer timer.Stop()
	select {
	case token <- struct{}{}:
	case <-timer.C:
		return answer, false
	}
	done := make(chan T, 1)
	go func() {
		defer func() { <-token }()
		done <- f()
	}()
	select {
	case answer = <-done:
		return answer, true
	case <-timer.C:
		return answer, false
	}
}

func (r *Reader) load() (l loaded, again time.Duration, err error) {
	// A stamp is taken before what it is of is read, so that a change meanwhile shows.
	r.stamps = map[string]stamp{r.dir: stampOf(r.dir), r.template: stampOf(r.template)}
	r.paths = map[netip.Addr][]string{}
	l, err = load(r.dir, r.template, func(path string) ([]byte, error) {
		r.stamps[path] = stampOf(path)
		content, soon, err := readClosed(path)
		if soon > 0 && (again == 0 || soon < again) {
			again = soon
		}
		return content, err
	})
	for _, f := range l.files {
		r.paths[f.Addr] = append(r.paths[f.Addr], f.Path)
	}
	return l, again, err
}

// Changed reports whether the directory, the template or the rule files of these AppVMs are others than when they were
// read last, or written since. It does not see what was written in place within the same tick of the file system's clock,
// some 4 ms, in the same size. If the file system does not answer, they may be others.
func (r *Reader) Changed(of ...netip.Addr) bool {
	changed, ok := inTime(r.busy, func() bool { return r.changed(of) })
	return changed || !ok
}

func (r *Reader) changed(of []netip.Addr) bool {
	paths := []string{r.dir, r.template}
	for _, addr := range of {
		paths = append(paths, r.paths[addr]...)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		was, read := r.stamps[path]
		return read && was != stampOf(path)
	})
}

// A stamp tells versions of a file or directory apart. Links are followed.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
	err          syscall.Errno // why there is none
}

func stampOf(path string) (s stamp) {
	info, err := os.Stat(path)
	if err != nil {
		errors.As(err, &s.err)
		return s
	}
	st := info.Sys().(*syscall.Stat_t)
	return stamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim} //nolint:unconvert // 32 bits on some
}
