// Package sightings remembers for each list when its AppVM was last connected, and by which vif. Qubes gives the address of a deleted
// AppVM to a new one, and tells the firewall VM no names. So an AppVM that comes with an address which nobody has had for long may be
// another one, with a list that was not made for it. That is told; nobody is refused because of it.
//
// How long an AppVM was away is counted by a clock that nobody can set. If somebody sets that of the wall, all times that were noted before
// move with it.
//
// Concurrency: the methods of a Book may be called from any goroutine, also of a nil one, which remembers nothing.
package sightings

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"vifproxy/internal/regular"
)

const (
	longMin       = 30 * 24 * time.Hour // without its AppVM, for a list to be doubted
	offMin        = 24 * time.Hour      // without this VM, for that time not to count: nobody makes AppVMs on a machine that is off
	writeInterval = 24 * time.Hour      // between writes while nothing changes but the time
	writeDelay    = time.Second         // after a change, because changes come in bursts, and a proxy starts now
	bookMax       = 1 << 20             // bytes of the file
)

// A Sighting is what is remembered of the AppVM of one list.
type Sighting struct {
	Vif   string        `json:"vif,omitempty"`  // by which it was connected last; "" if it never was
	Since time.Time     `json:"since,omitzero"` // when it was first seen there
	Last  time.Time     `json:"last"`           // when it was last seen there or, if it never was, when its list was first seen
	Off   time.Duration `json:"off,omitempty"`  // for which this VM did not run since then, in nanoseconds

	// Doubt says why the AppVM may not be the one that the list was made for; "" if nothing speaks for that.
	Doubt string `json:"doubt,omitempty"`
}

// An entry is a Sighting in the file.
type entry struct {
	Name string     `json:"name"`
	Addr netip.Addr `json:"addr"`
	Sighting
}

// A record is the file.
type record struct {
	Written time.Time `json:"written"`
	Lists   []entry   `json:"lists"`
}

// who is an AppVM as a person knows it. Another name or address is another list.
type who struct {
	name string
	addr netip.Addr
}

// A Book is what is remembered of all lists. It is as old as its file: in a VM that keeps no files, it is empty at each start.
type Book struct {
	path  string
	clock func() (wall time.Time, runs time.Duration)    // runs is for how long this VM has run; nobody can set that
	hold  func(name string, addr netip.Addr, why string) // may be nil

	mu      sync.Mutex
	seen    map[who]Sighting
	here    map[who]bool
	changed chan struct{} // has a token if the file is older than the book by more than the time
	written time.Time
	wall    time.Time // at the last look at the clock
	runs    time.Duration
}

// Open returns the Book of a file. If the error is not nil, the file cannot be used, and the Book is empty.
func Open(path string) (*Book, error) {
	began := time.Now()
	return open(path, func() (time.Time, time.Duration) { return time.Now().Round(0), time.Since(began) })
}

func open(path string, clock func() (time.Time, time.Duration)) (*Book, error) {
	b := &Book{path: path, clock: clock, seen: map[who]Sighting{}, here: map[who]bool{}, changed: make(chan struct{}, 1)}
	b.wall, b.runs = clock()
	text, err := regular.Read(path, bookMax)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return b, fmt.Errorf("read when AppVMs were last connected: %w; it begins again", err)
	}
	off := b.wall.Sub(r.Written)
	for _, e := range r.Lists {
		if off >= offMin {
			e.Off += off
		}
		b.seen[who{e.Name, e.Addr}] = e.Sighting
	}
	if off < 0 {
		b.move(off)
	}
	return b, nil
}

// now looks at the clock. The caller holds mu.
func (b *Book) now() time.Time {
	wall, runs := b.clock()
	if set := wall.Sub(b.wall) - (runs - b.runs); set.Abs() >= time.Second {
		b.move(set)
	}
	b.wall, b.runs = wall, runs
	return wall
}

// move moves all times with a clock that was set. The caller holds mu.
func (b *Book) move(by time.Duration) {
	for w, s := range b.seen {
		s.Last = s.Last.Add(by)
		if !s.Since.IsZero() {
			s.Since = s.Since.Add(by)
		}
		b.seen[w] = s
	}
	b.written = b.written.Add(by)
}

// OnDoubt sets a function to be called when an AppVM comes that may be another one. It is called before the first Note, and f must not wait.
func (b *Book) OnDoubt(f func(name string, addr netip.Addr, why string)) { b.hold = f }

// Note takes in by which vifs the AppVM of a list is connected. If it has just come, and nobody has seen it for long, Note returns why
// it may be another one.
func (b *Book) Note(name string, addr netip.Addr, vifs []string) (doubt string) {
	if b == nil || !addr.IsValid() {
		return ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	w := who{name, addr}
	s, known := b.seen[w]
	if !known || s.Last.After(now) { // or the file has a time of the future
		s.Last = now
	}
	was, is := b.here[w], len(vifs) > 0
	switch {
	case is:
		if !was && now.Sub(s.Last)-s.Off >= longMin {
			doubt = s.doubt()
			s.Doubt = doubt
			if b.hold != nil {
				b.hold(name, addr, doubt)
			}
		}
		if !slices.Contains(vifs, s.Vif) {
			s.Vif, s.Since = vifs[0], now
		}
		s.Last, s.Off, b.here[w] = now, 0, true
	case was:
		delete(b.here, w)
		s.Doubt = ""
	}
	b.seen[w] = s
	if !known || is != was || now.Sub(b.written) >= writeInterval {
		b.touch()
	}
	return doubt
}

// doubt says why nobody knows who has come.
func (s Sighting) doubt() string {
	last := s.Last.Format(time.DateOnly)
	if s.Vif == "" {
		return "nobody has been connected for this list since " + last
	}
	return fmt.Sprintf("nobody has been connected for this list since %s, by %s", last, s.Vif)
}

// touch has the file be written.
func (b *Book) touch() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// Of returns what is remembered.
func (b *Book) Of(name string, addr netip.Addr) Sighting {
	if b == nil {
		return Sighting{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[who{name, addr}]
}

// Forget forgets a list that there is no more. If there is one of that name and address later, it is another one.
func (b *Book) Forget(name string, addr netip.Addr) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w := (who{name, addr}); b.seen[w] != (Sighting{}) {
		delete(b.seen, w)
		delete(b.here, w)
		b.touch()
	}
}

// Keep writes the file when the book has changed, until ctx ends, and then once more. It calls report after each write.
func (b *Book) Keep(ctx context.Context, report func(error)) {
	regular.Keep(ctx, b.changed, writeDelay, 0, b.write, report)
}

func (b *Book) write() error {
	b.mu.Lock()
	r := record{Written: b.now(), Lists: []entry{}}
	for w, s := range b.seen {
		s.Doubt = ""
		r.Lists = append(r.Lists, entry{w.name, w.addr, s})
	}
	b.written = r.Written
	b.mu.Unlock()
	slices.SortFunc(r.Lists, func(x, y entry) int { return cmp.Or(cmp.Compare(x.Name, y.Name), x.Addr.Compare(y.Addr)) })
	text, err := json.MarshalIndent(r, "", "\t")
	if err == nil {
		err = regular.Replace(b.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write when AppVMs were last connected: %w", err)
	}
	return nil
}
