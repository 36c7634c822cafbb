// Package stops is the record of what people have stopped, in memory and in a file. A person's no stays until a person's
// yes: it outlives the rule file, the daemon, and, if the file system does, the machine.
//
// Concurrency: a Record belongs to one goroutine; others get a Clone. A File may be used from any goroutine, by one at once.
package stops

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"vifproxy/internal/regular"
)

// recordMax bounds the file, in bytes: some 10,000 AppVMs.
const recordMax = 1 << 20

// A Record says which AppVMs are stopped.
type Record struct {
	Stopped []Stop    `json:"stopped,omitempty"`
	All     time.Time `json:"all,omitzero"`  // kill-all: all AppVMs are stopped since then, those that come later too,
	But     []Stop    `json:"but,omitempty"` // except those that were started since
	Unread  bool      `json:"-"`             // All is set because the file could not be read, and no person has said anything since
}

// A Stop is one AppVM that was stopped, or, in Record.But, started.
type Stop struct {
	Name  string     `json:"name"`
	Addr  netip.Addr `json:"addr,omitzero"`
	Since time.Time  `json:"since"`
	By    string     `json:"by,omitempty"` // who has stopped it; "" for a person
}

// Of returns since when, and by what, an AppVM is stopped; by is empty if it is not. A stop is for the name and for the
// address, because a rule file that gets another name, or another address, most likely belongs to the same AppVM. The exception
// from a kill-all opens something, so it is for an AppVM that has both.
func (r Record) Of(name string, addr netip.Addr) (since time.Time, by string) {
	for _, stop := range r.Stopped {
		if stop.Name == name || stop.Addr.IsValid() && stop.Addr == addr {
			return stop.Since, cmp.Or(stop.By, "a person")
		}
	}
	switch {
	case r.All.IsZero(), slices.ContainsFunc(r.But, is(name, addr)):
		return time.Time{}, ""
	case r.Unread:
		return r.All, "a record of stops that cannot be read"
	}
	return r.All, "a person, with kill-all"
}

func is(name string, addr netip.Addr) func(Stop) bool {
	return func(s Stop) bool { return s.Name == name && s.Addr == addr }
}

// Stop adds an AppVM, because a person says so.
func (r *Record) Stop(name string, addr netip.Addr, now time.Time) {
	r.Unread = false
	r.add(Stop{Name: name, Addr: addr, Since: now})
}

// Hold adds an AppVM for a reason. If a person has stopped it already, that stays the reason. A record that could not be read has still to be
// read.
func (r *Record) Hold(name string, addr netip.Addr, by string, now time.Time) {
	r.add(Stop{Name: name, Addr: addr, Since: now, By: by})
}

// HoldAll holds the AppVMs that another record holds, and reports whether there are any. That other one stood for this record while this
// could not be read.
func (r *Record) HoldAll(other Record) bool {
	for _, s := range other.Stopped {
		r.add(s)
	}
	return len(other.Stopped) > 0
}

func (r *Record) add(s Stop) {
	r.But = slices.DeleteFunc(r.But, is(s.Name, s.Addr))
	if !slices.ContainsFunc(r.Stopped, is(s.Name, s.Addr)) {
		r.Stopped = append(r.Stopped, s)
	}
}

// Start lets an AppVM go, because a person says so. Without an address, because it has no list now, that is the AppVM of this name that a
// person stopped. If it is stopped only because it has the address of one that a person stopped under another name, that name stays
// stopped: nobody has said yes to that AppVM.
func (r *Record) Start(name string, addr netip.Addr, now time.Time) {
	r.Unread = false
	named := func(old Stop) bool { return old.Name == name }
	if i := slices.IndexFunc(r.Stopped, named); i >= 0 && !addr.IsValid() {
		addr = r.Stopped[i].Addr
	}
	r.Stopped = slices.DeleteFunc(r.Stopped, named)
	for i := range r.Stopped {
		if r.Stopped[i].Addr == addr {
			r.Stopped[i].Addr = netip.Addr{}
		}
	}
	if !r.All.IsZero() && !slices.ContainsFunc(r.But, is(name, addr)) {
		r.But = append(r.But, Stop{Name: name, Addr: addr, Since: now})
	}
}

// Found notes the address of an AppVM that is stopped by its name alone, and reports whether it was. From then on its list may get another
// name, too, and stays stopped.
func (r *Record) Found(name string, addr netip.Addr) bool {
	i := slices.IndexFunc(r.Stopped, is(name, netip.Addr{}))
	if i < 0 || !addr.IsValid() {
		return false
	}
	r.Stopped[i].Addr = addr
	return true
}

// Named reports whether an AppVM of this name was stopped.
func (r Record) Named(name string) bool {
	return slices.ContainsFunc(r.Stopped, func(stop Stop) bool { return stop.Name == name })
}

// Clone returns a copy that shares nothing with the record.
func (r Record) Clone() Record {
	r.Stopped, r.But = slices.Clone(r.Stopped), slices.Clone(r.But)
	return r
}

// A File keeps a Record.
type File string

// Read returns what the file holds; nothing, if there is none. Its error names the file and a remedy.
func (f File) Read() (Record, error) {
	r, err := f.read()
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w (as long as it cannot be read, nobody is started: say `vifproxyctl start NAME` for"+
			" who is to have a proxy, or `vifproxyctl kill-all-and-restart` for all)", f, err)
	}
	return r, nil
}

func (f File) read() (r Record, err error) {
	text, err := regular.Read(string(f), recordMax)
	switch {
	case errors.Is(err, regular.ErrNotRegular):
		return r, errors.New("it is not a regular file")
	case err != nil:
		return r, withoutPath(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("it is broken: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return Record{}, errors.New("it is broken: something follows the JSON object")
	}
	if slices.ContainsFunc(slices.Concat(r.Stopped, r.But), func(s Stop) bool { return s.Name == "" }) {
		return Record{}, errors.New("it is broken: an entry has no name")
	}
	return r, nil
}

// Write replaces the file in one step, and returns when it is on the disk. It makes the directory if there is none. The
// daemon's group may read the file: one that root started by hand leaves it to the unit's daemon.
func (f File) Write(r Record) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err == nil && len(text) > recordMax {
		err = fmt.Errorf("it would be longer than %d bytes: `vifproxyctl start` lets go of AppVMs that there are no more",
			recordMax)
	}
	if err == nil {
		err = regular.Replace(string(f), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f, withoutPath(err))
	}
	return nil
}

func withoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
