package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/control"
	"vifproxy/internal/events"
)

const (
	// keepTimeout is how long a verb waits for the record of stops to be written. The AppVMs are stopped before that.
	keepTimeout = 5 * time.Second
	// stopsMax bounds the record, in bytes: some 10,000 AppVMs.
	stopsMax = 1 << 20
	// theStops is what the troubles call the record.
	theStops = "record of stopped AppVMs"
)

// Stops is what people have stopped. A person's no stays until a person's yes: it outlives the rule file, the daemon,
// and, where the file system does, the machine.
type Stops struct {
	Stopped []Stop    `json:"stopped,omitempty"`
	All     time.Time `json:"all,omitzero"`  // kill-all: everybody is stopped since then, who comes later too,
	But     []Stop    `json:"but,omitempty"` // except those that were started since
	unread  bool      // All is set although nobody said so
}

// Stop is one AppVM that was stopped, or, in Stops.But, started.
type Stop struct {
	Name  string     `json:"name"`
	Addr  netip.Addr `json:"addr,omitzero"`
	Since time.Time  `json:"since"`
}

// of returns since when, and by what, an AppVM is stopped; by is empty if it is not. A stop is for the name and for the
// address: a rule file that gets another name, or another address, is most likely the same AppVM's. The exception from a
// kill-all, which opens, is for an AppVM that has both.
func (s Stops) of(who identity) (since time.Time, by string) {
	for _, stop := range s.Stopped {
		if stop.Name == who.name || stop.Addr.IsValid() && stop.Addr == who.addr {
			return stop.Since, "a person"
		}
	}
	switch {
	case s.All.IsZero(), slices.ContainsFunc(s.But, func(b Stop) bool { return b.who() == who }):
		return time.Time{}, ""
	case s.unread:
		return s.All, "a record of stops that cannot be read"
	}
	return s.All, "a person, with kill-all"
}

func (s Stop) who() identity { return identity{s.Name, s.Addr} }

// stop adds an AppVM.
func (s *Stops) stop(who identity, now time.Time) {
	s.But = slices.DeleteFunc(s.But, func(b Stop) bool { return b.who() == who })
	if !slices.ContainsFunc(s.Stopped, func(old Stop) bool { return old.who() == who }) {
		s.Stopped = append(s.Stopped, Stop{who.name, who.addr, now})
	}
}

// start lets an AppVM go. If it is stopped only because it has the address of one that a person stopped under another
// name, that name stays stopped: nobody has said yes to that AppVM.
func (s *Stops) start(who identity, now time.Time) {
	s.Stopped = slices.DeleteFunc(s.Stopped, func(old Stop) bool { return old.Name == who.name })
	for i := range s.Stopped {
		if s.Stopped[i].Addr == who.addr {
			s.Stopped[i].Addr = netip.Addr{}
		}
	}
	if !s.All.IsZero() && !slices.ContainsFunc(s.But, func(b Stop) bool { return b.who() == who }) {
		s.But = append(s.But, Stop{who.name, who.addr, now})
	}
}

// named reports whether an AppVM of this name was stopped.
func (s Stops) named(name string) bool {
	return slices.ContainsFunc(s.Stopped, func(stop Stop) bool { return stop.Name == name })
}

func (s Stops) clone() Stops {
	s.Stopped, s.But = slices.Clone(s.Stopped), slices.Clone(s.But)
	return s
}

// StopsFile keeps Stops in a file.
type StopsFile string

// Read returns what the file holds; nothing, if there is none. Its error names the file and a remedy.
func (f StopsFile) Read() (Stops, error) {
	s, err := f.read()
	if errors.Is(err, fs.ErrNotExist) {
		return Stops{}, nil
	}
	if err != nil {
		return Stops{}, fmt.Errorf("%s: %w (as long as it cannot be read, nobody is started: say `vifproxyctl start NAME` for"+
			" who is to have a proxy, or `vifproxyctl kill-all-and-restart` for all)", f, err)
	}
	return s, nil
}

func (f StopsFile) read() (s Stops, err error) {
	file, err := os.OpenFile(string(f), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) // a FIFO would wait
	if err != nil {
		return s, withoutPath(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return s, errors.Join(err, errors.New("it is not a regular file"))
	}
	text, err := io.ReadAll(io.LimitReader(file, stopsMax+1))
	if err != nil {
		return s, withoutPath(err)
	}
	if len(text) > stopsMax {
		return s, fmt.Errorf("it is longer than %d bytes", stopsMax)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return Stops{}, fmt.Errorf("it is broken: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return Stops{}, errors.New("it is broken: something follows the JSON object")
	}
	if slices.ContainsFunc(slices.Concat(s.Stopped, s.But), func(s Stop) bool { return s.Name == "" }) {
		return Stops{}, errors.New("it is broken: an entry has no name")
	}
	return s, nil
}

// Write replaces the file in one step, and returns when it is on the disk. It makes the directory if there is none. The
// file is for the daemon's group to read as well: a daemon that was started by hand, as root, leaves it to that of the unit.
func (f StopsFile) Write(s Stops) error {
	text, err := json.MarshalIndent(s, "", "\t")
	if err == nil && len(text) > stopsMax {
		err = fmt.Errorf("it would be longer than %d bytes: `vifproxyctl start` lets go of AppVMs that there are no more",
			stopsMax)
	}
	if err == nil {
		err = f.replace(append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f, withoutPath(err))
	}
	return nil
}

func (f StopsFile) replace(text []byte) error {
	dir, err := f.openDir()
	if err != nil {
		return err
	}
	defer dir.Close()
	temp, path := string(f)+".new", string(f)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Chmod(0o640), file.Sync()) // whatever the umask is
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
		return err
	}
	return dir.Sync()
}

func (f StopsFile) openDir() (*os.File, error) {
	dir := filepath.Dir(string(f))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

func withoutPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// readStops learns what was stopped before the daemon began. As long as that cannot be read everybody is stopped: "could
// not read" is never "there is nothing". What a person says meanwhile is a new record, and the old one is not asked any more.
func (s *Supervisor) readStops(now time.Time) {
	stops, err := s.ReadStops()
	if err != nil {
		stops = Stops{All: now, unread: true}
	}
	s.inputs.Stops = stops
	s.agenda.at(dueStops, s.troubles.noteAs(events.Impaired, s.Events, now, theStops, err))
}

// keep has the record of stops written, beside the loop, and returns where the outcome will be said.
func (s *Supervisor) keep() <-chan error {
	s.inputs.Stops.unread = false // what it says now is what a person wants
	outcome := make(chan error, 1)
	s.keeping.told = append(s.keeping.told, outcome)
	s.writeStops()
	return outcome
}

// writeStops writes the record unless that is under way; then once more when it is over.
func (s *Supervisor) writeStops() {
	if s.keeping.busy {
		return
	}
	s.keeping.busy = true
	stops, told := s.inputs.Stops.clone(), s.keeping.told
	s.keeping.told = nil
	go func() { // not among running: a dead file system would hold up the end
		err := s.WriteStops(stops)
		s.post(func() {
			s.keeping.busy = false
			s.agenda.at(dueStops, s.troubles.noteAs(events.Impaired, s.Events, time.Now(), theStops, err))
			for _, outcome := range told {
				outcome <- err
			}
			if len(s.keeping.told) > 0 {
				s.writeStops()
			}
		})
	}()
}

// tryStops tries once more what failed: to read the record, or to write it.
func (s *Supervisor) tryStops(now time.Time) {
	if !s.inputs.Stops.unread {
		s.writeStops()
		return
	}
	s.readStops(now)
	s.changed = true
}

// kept waits until the record is written. If it is not, what was done is done, but a restart would undo it.
func (s *Supervisor) kept(ctx context.Context, outcome <-chan error) error {
	timeout := time.NewTimer(keepTimeout)
	defer timeout.Stop()
	var err error
	select {
	case err = <-outcome:
	case <-timeout.C:
		err = fmt.Errorf("the file system does not answer for %v", keepTimeout)
		s.post(func() {
			if s.keeping.busy {
				s.troubles.noteAs(events.Impaired, s.Events, time.Now(), theStops, err)
			}
		})
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return errStopping
	}
	if err == nil {
		return nil
	}
	return &control.DaemonError{Code: 500, Message: fmt.Sprintf("it is done, but will not outlive a restart of vifproxyd: %v"+
		" (vifproxyd tries again by itself; `vifproxyctl show` says when that is over)", err)}
}
