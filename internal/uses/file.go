package uses

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"vifproxy/internal/regular"
)

const (
	hostMax = 255      // bytes of a host, as package tinyproxy reads it
	fileMax = 16 << 20 // bytes of the file
	// writeDelay is the time after the first request until the file is written, because requests come in bursts.
	writeDelay = time.Second
	// writeInterval is the time between writes.
	writeInterval = time.Minute
)

// A record is the file.
type record struct {
	Lists []listRecord `json:"lists"`
}

type listRecord struct {
	Path     string        `json:"path"`
	Begun    time.Time     `json:"begun"`
	Counted  time.Duration `json:"counted"` // in nanoseconds
	Absent   time.Time     `json:"absent,omitzero"`
	Lost     int           `json:"lost,omitempty"`
	LastLost time.Time     `json:"last_lost,omitzero"`
	Lines    []lineRecord  `json:"lines"`
	Hosts    []hostRecord  `json:"hosts,omitempty"` // oldest first
}

type lineRecord struct {
	Path    string        `json:"path"`
	Pattern string        `json:"pattern"`
	Began   time.Duration `json:"began"`
	Count   int           `json:"count,omitempty"`
	First   time.Time     `json:"first,omitzero"`
	Last    time.Time     `json:"last,omitzero"`
	More    bool          `json:"more,omitempty"`
}

// A hostRecord counts for the lines that match it when it is read.
type hostRecord struct {
	Host  string    `json:"host"`
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Open returns the Book of a file. If the error is not nil, the file cannot be used, and the Book is empty.
func Open(path string) (*Book, error) {
	b := newBook(path)
	text, err := regular.Read(path, fileMax)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil {
		err = r.wrong()
	}
	if err != nil {
		return newBook(path), fmt.Errorf("read which lines of lists are used: %w; the counting begins again", err)
	}
	now := time.Now()
	for _, from := range r.Lists {
		l := newList(from.Path, now)
		l.begun, l.counted, l.absent, l.lost, l.lastLost = from.Begun, from.Counted, from.Absent, from.Lost, from.LastLost
		for _, at := range from.Lines {
			l.lines[lineKey{at.Path, at.Pattern}] = &line{at.Began, at.Count, at.First, at.Last, at.More}
		}
		for _, h := range from.Hosts {
			l.hosts[h.Host] = l.newest.PushFront(&host{name: h.Host, count: h.Count, first: h.First, last: h.Last})
		}
		b.lists[from.Path] = l
	}
	return b, nil
}

// wrong returns what no daemon has written, or nil.
func (r record) wrong() error {
	paths := map[string]bool{}
	for _, l := range r.Lists {
		if paths[l.Path] {
			return errors.New("it has a list twice")
		}
		paths[l.Path] = true
		hosts := map[string]bool{}
		for _, h := range l.Hosts {
			if hosts[h.Host] || h.Count < 0 || len(h.Host) > hostMax {
				return errors.New("it has a host twice or one that is too long, or a negative count")
			}
			hosts[h.Host] = true
		}
		for _, at := range l.Lines {
			if at.Count < 0 || at.Began < 0 || at.Began > l.Counted {
				return errors.New("a line is older than its list, or has a negative count")
			}
		}
		if len(l.Hosts) > hostsMax {
			return fmt.Errorf("a list has more than %d hosts", hostsMax)
		}
	}
	return nil
}

// Keep writes the file when the book has changed, until ctx ends, and then once more. It calls report after each write.
func (b *Book) Keep(ctx context.Context, report func(error)) {
	regular.Keep(ctx, b.changed, writeDelay, writeInterval, b.write, report)
}

func (b *Book) write() error {
	if err := regular.ReplacePrivate(b.path, b.text()); err != nil {
		return fmt.Errorf("write which lines of lists are used: %w", err)
	}
	return nil
}

// text returns what the file should have, a record. Lists share its size; one that needs more is written without its hosts, or not at
// all. Nobody waits for the encoding, and each list is encoded once.
func (b *Book) text() []byte {
	b.mu.Lock()
	lists := slices.Collect(maps.Values(b.lists))
	b.mu.Unlock()
	all := []byte(`{"lists":[`)
	for _, l := range lists {
		for _, of := range []func(*usedList) listRecord{(*usedList).record, (*usedList).withoutHosts} {
			b.mu.Lock()
			l.advance(time.Now())
			to := of(l)
			b.mu.Unlock()
			if text, err := json.Marshal(to); err == nil && len(text) < fileMax/len(lists)-8 {
				all = append(append(all, text...), ',')
				break
			}
		}
	}
	return append(bytes.TrimSuffix(all, []byte(",")), "]}\n"...)
}

func (l *usedList) record() listRecord {
	r := listRecord{Path: l.path, Begun: l.begun, Counted: l.counted, Absent: l.absent, Lost: l.lost, LastLost: l.lastLost, Lines: []lineRecord{}}
	for key, at := range l.lines {
		r.Lines = append(r.Lines, lineRecord{key.path, key.pattern, at.began, at.count, at.first, at.last, at.more})
	}
	for e := l.newest.Back(); e != nil; e = e.Prev() {
		h := e.Value.(*host)
		r.Hosts = append(r.Hosts, hostRecord{h.name, h.count, h.first, h.last})
	}
	return r
}

// withoutHosts counts what hosts have counted for their lines alone.
func (l *usedList) withoutHosts() listRecord {
	short := *l
	short.lines = make(map[lineKey]*line, len(l.lines))
	for key, at := range l.lines {
		copied := *at
		short.lines[key] = &copied
	}
	for e := l.newest.Front(); e != nil; e = e.Next() {
		h := e.Value.(*host)
		for _, key := range h.lines {
			if at := short.lines[key]; at != nil {
				at.add(h)
				at.more = true
			}
		}
	}
	r := short.record()
	r.Hosts = nil
	return r
}
