package confine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/unanswered"
	"vifproxy/internal/watchfile"
)

// pathTimeout is how long a file system may take to find a file. A page may be a link to one that does not answer.
const pathTimeout = 2 * time.Second

var errSilent = errors.New("its file system does not answer")

// Places are the files that sandboxes open and that somebody may replace. The zero value is ready. Read is for one goroutine, and Watch
// for one.
type Places struct {
	unanswered unanswered.Questions
	known      map[string]string

	mu    sync.Mutex
	files []string // that Read was asked about last
	stop  func()   // watching them; nil if nobody does
}

// Read returns a text for each of these files; "" if it is not there. If the text changes, sandboxes that open the file must be made again,
// because a rule of Landlock is about an inode. A file of which nobody knows where it is has not changed; the error says so.
func (p *Places) Read(files ...string) (texts map[string]string, err error) {
	p.expect(files)
	texts = make(map[string]string, len(files))
	for _, path := range files {
		is, ok := unanswered.Ask(&p.unanswered, path, pathTimeout, func() string { return placeOf(path) })
		if !ok {
			is, err = p.known[path], fmt.Errorf("look at the page %s: %w", path, errSilent)
		}
		texts[path] = is
	}
	p.known = texts
	return maps.Clone(texts), err
}

// placeOf returns a text for the inode at a path, links followed. File systems give the number of a removed file to the next one, so the
// time at which the inode was made belongs to it. If the file system does not tell that, any change of the inode makes another text.
func placeOf(path string) string {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_CTIME|unix.STATX_BTIME, &st) != nil {
		return ""
	}
	made := st.Btime
	if st.Mask&unix.STATX_BTIME == 0 {
		made = st.Ctime
	}
	return fmt.Sprintf("%q %d:%d %d %d.%d\n", path, st.Dev_major, st.Dev_minor, st.Ino, made.Sec, made.Nsec)
}

// expect has these files be watched.
func (p *Places) expect(files []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(files, p.files) {
		return
	}
	p.files = slices.Clone(files)
	if p.stop != nil {
		p.stop()
	}
}

// Watch calls changed after what may have changed what Read returns for the files that it was asked about last, links followed, and
// whenever it has begun to watch other files, until ctx ends. Before, it calls report: with nil, or with why not all changes are seen. An
// error means that it cannot watch at all.
func (p *Places) Watch(ctx context.Context, changed func(), report func(error)) error {
	for ctx.Err() == nil {
		same, stop := context.WithCancel(ctx)
		p.mu.Lock()
		files := p.files
		p.stop = stop
		p.mu.Unlock()
		var err error
		if len(files) > 0 {
			err = watchfile.Watch{Paths: func() []string { return files }, Changed: changed, Report: report}.Run(same)
		} else {
			report(nil)
			<-same.Done()
		}
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}
