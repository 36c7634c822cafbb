package rules

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"vifproxy/internal/unanswered"
	"vifproxy/rules/flaws"
)

// readTimeout is how long a Reader waits for the file system. A file behind a link may be on a file system that does not answer.
const readTimeout = 2 * time.Second

// fileTimeout is how long a Reader waits for one file. A link may lead to a file system that does not answer, and that is the trouble of
// those AppVMs alone whose list it is.
const fileTimeout = 500 * time.Millisecond

// unknownRetry is how soon lists are read again that could not be read elsewhere, if nothing tells before that they can.
const unknownRetry = time.Second

var errSlow = fmt.Errorf("the rule directory, or a file that a link in it leads to, cannot be read within %v: "+
	"its file system does not answer, or a list is so long; it is tried again", readTimeout)

// A Reader reads a rule directory and a template again and again, and knows without reading whether they have changed since. No
// call takes much longer than readTimeout. While an earlier call is still under way, all others fail.
type Reader struct {
	dir, template string
	under         string        // the path of the ceiling; "" if there is none
	busy          chan struct{} // holds a token while something is being read
	onLate        func()        // may be nil

	elsewhere func() (Lists, error) // nil if there are no lists but those in files
	moved     func() bool           // whether elsewhere may return something else now

	unanswered unanswered.Questions // by path

	// The fields below belong to the goroutine that has put the token there.
	stamps map[string]stamp     // of what the last Read looked at, by path
	since  map[string]time.Time // when these were first seen
	paths  map[netip.Addr][]string
	parsed map[string]parsed // by path
	parses int               // of the Read under way
	lists  Lists             // as last read elsewhere

	ceiling *Ceiling // as last read; it admits nothing if it never was, and is nil if there is none
}

// NewReader returns a Reader of the directory dir and the template.
func NewReader(dir, template string) *Reader {
	return &Reader{dir: dir, template: template, busy: make(chan struct{}, 1), parsed: map[string]parsed{}}
}

// OnLate sets a function to be called when a Read ends after its time was over and has parsed something. The next Read need not
// parse that again, and may be in time. OnLate is called before the first Read, and f must not wait.
func (r *Reader) OnLate(f func()) { r.onLate = f }

// Also sets where lists are that are in no file: read returns them all, or that they are not known, and changed whether it may return
// something else now. Also is called before the first Read, and neither function takes long.
func (r *Reader) Also(read func() (Lists, error), changed func() bool) {
	r.elsewhere, r.moved = read, changed
}

// Read returns what the function Read returns, but does not believe an incomplete file. Such a file is among the Refused, or is
// the TemplateErr, with an *Error that is Unsettled.
func (r *Reader) Read() (Set, error) {
	type answer struct {
		set    Set
		err    error
		parsed bool
	}
	late := func(a answer) {
		if a.parsed && r.onLate != nil {
			r.onLate()
		}
	}
	a, ok := inTime(r.busy, late, func() answer {
		r.parses = 0
		set, err := r.read()
		return answer{set, err, r.parses > 0}
	})
	if !ok {
		return Set{}, errSlow
	}
	return a.set, a.err
}

// inTime calls f, which has the token meanwhile, and returns its result. If f takes too long, inTime reports false, f goes on, and
// late gets the result.
func inTime[T any](token chan struct{}, late func(T), f func() T) (answer T, ok bool) {
	over := make(chan struct{})
	defer unanswered.AfterFunc(readTimeout, func() { close(over) }).Stop()
	select {
	case token <- struct{}{}:
	case <-over:
		return answer, false
	}
	done, givenUp := make(chan T), make(chan struct{})
	go func() {
		answer := f()
		<-token
		select {
		case done <- answer:
		case <-givenUp:
			late(answer)
		}
	}()
	select {
	case answer = <-done:
		return answer, true
	case <-over:
		close(givenUp)
		return answer, false
	}
}

func (r *Reader) read() (Set, error) {
	stamps, since := r.stamps, r.since
	r.stamps, r.since = map[string]stamp{r.dir: stampOf(r.dir)}, map[string]time.Time{}
	r.paths = map[netip.Addr][]string{}
	var soonest time.Duration
	var answers map[string]fileAnswer
	answerOf := func(path string) fileAnswer { return readAnswer(path, stamps[path], since[path]) }
	ahead := func(paths []string) {
		look := outlook{dir: filepath.Join(r.dir, SharedDir), by: map[string]*demand{}}
		more := func(path string, a fileAnswer) []string {
			if a.err != nil || path == r.template || path == r.under {
				return nil
			}
			return look.lists(path, a.content)
		}
		answers = unanswered.All(&r.unanswered, append(paths, r.others()...), fileTimeout, answerOf, more)
	}
	readFile := func(path string) ([]byte, error) {
		a, ok := answers[path]
		if !ok {
			a, ok = unanswered.Ask(&r.unanswered, path, fileTimeout, func() fileAnswer { return answerOf(path) })
		}
		if !ok {
			a = fileAnswer{stamp: stamp{err: syscall.ETIMEDOUT}, again: unknownRetry, err: doesNotAnswer(path)}
		}
		r.stamps[path], r.since[path] = a.stamp, a.since
		if a.again > 0 && (soonest == 0 || a.again < soonest) {
			soonest = a.again
		}
		return a.content, a.err
	}
	l, err := load(r.dir, r.template, readFile, ahead)
	if err != nil {
		return Set{}, err
	}
	ceilingErr := r.readCeiling(readFile)
	for _, f := range l.files {
		r.paths[f.Addr] = append(append(r.paths[f.Addr], f.Path), f.paths...)
	}
	var unknown error
	if r.elsewhere != nil {
		var lists Lists
		if lists, unknown = r.elsewhere(); unknown == nil {
			r.lists = lists
		} else {
			r.lists.Again = unknownRetry
		}
		l.join(r.lists)
		if again := r.lists.Again; again > 0 && (soonest == 0 || again < soonest) {
			soonest = again
		}
	}
	there := map[string]bool{}
	for _, f := range l.files {
		there[f.Path] = true
	}
	maps.DeleteFunc(r.parsed, func(path string, _ parsed) bool { return !there[path] })
	set := l.parse(r.parse)
	set.Again, set.Unknown, set.Shown = soonest, unknown, r.lists.Shown
	set.Ceiling, set.CeilingErr = r.ceiling, ceilingErr
	return set, nil
}

// others returns the paths of the template and of the ceiling, if there is one.
func (r *Reader) others() []string {
	if r.under == "" {
		return []string{r.template}
	}
	return []string{r.template, r.under}
}

// stamp is stampOf for a file system that may not answer.
func (r *Reader) stamp(path string) stamp {
	if s, ok := unanswered.Ask(&r.unanswered, path, fileTimeout, func() stamp { return stampOf(path) }); ok {
		return s
	}
	return stamp{err: syscall.ETIMEDOUT}
}

func doesNotAnswer(path string) *Error {
	return &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
		Text: "is on a file system that does not answer: what it said before stays in force", Remedy: "see where it leads"}}
}

// A fileAnswer is what came of reading a file.
type fileAnswer struct {
	stamp   stamp     // of before
	since   time.Time // when that was first seen
	content []byte
	again   time.Duration
	err     error
}

// readAnswer takes a file's stamp before it reads the file, so that a change meanwhile shows. It is told what it had before, and since when.
func readAnswer(path string, before stamp, since time.Time) (a fileAnswer) {
	if a.stamp, a.since = stampOf(path), since; since.IsZero() || a.stamp != before {
		a.since = time.Now()
	}
	a.content, a.again, a.err = readClosed(path, time.Since(a.since))
	return a
}

// A parsed is what was made of some bytes.
type parsed struct {
	sum  [sha256.Size]byte
	file File
	err  error
}

// sum is that of all that decides what a list says.
func (f loadedFile) sum() [sha256.Size]byte {
	sum := sha256.Sum256(f.content)
	for _, path := range f.paths {
		list := f.shared[path]
		of := sha256.Sum256(list.content)
		sum = sha256.Sum256(fmt.Appendf(nil, "%s%s\x00%s%v", sum, path, of, list.err))
	}
	return sum
}

// parse parses a list, which takes seconds for thousands of names on a slow machine. It parses the same bytes once, even if the
// time of Read is over before it is done: otherwise such a list would never be in force.
func (r *Reader) parse(f loadedFile) (File, error) {
	sum := f.sum()
	p, there := r.parsed[f.Path]
	if !there || p.sum != sum {
		r.parses++
		p.sum = sum
		p.file, p.err = f.parse()
		r.parsed[f.Path] = p
	}
	return p.file, p.err
}

// Changed reports whether the directory, the template or the rule files of these AppVMs have been replaced or written since they
// were read last, or any list elsewhere has changed. It misses a write in place that leaves the size as it was, within the same tick of the file system's clock, some
// 4 ms. If the file system does not answer, Changed reports true.
func (r *Reader) Changed(of ...netip.Addr) bool {
	changed, ok := inTime(r.busy, func(bool) {}, func() bool {
		return r.changed(of) || r.moved != nil && r.moved()
	})
	return changed || !ok
}

func (r *Reader) changed(of []netip.Addr) bool {
	paths := append([]string{r.dir}, r.others()...)
	paths = append(paths, r.paths[netip.Addr{}]...) // files for ranges have no address
	for _, addr := range of {
		paths = append(paths, r.paths[addr]...)
	}
	return slices.ContainsFunc(paths, func(path string) bool {
		was, read := r.stamps[path]
		return read && was != r.stamp(path)
	})
}

// A stamp distinguishes versions of a file or directory. Links are followed.
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
