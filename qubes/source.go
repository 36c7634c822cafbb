package qubes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"vifproxy/internal/watchfile"
)

const (
	configPrefix   = "/vm-config/"
	listPrefix     = configPrefix + "vifproxy."
	firewallPrefix = "/qubes-firewall/"
	maskPrefix     = "/mapped-ip/"

	// settleTime is how long what was read has to stay as it is, if nobody has watched for so long whether somebody writes. dom0 writes
	// all rules of an AppVM within a millisecond (qubes/vm/mix/net.py, reload_firewall_for_vm).
	settleTime = 30 * time.Millisecond

	// failureTime is how long a reading that failed stands for the next ones, so that nobody waits for a silent daemon all the time.
	failureTime = time.Second
)

// ErrIncomplete is in the error of a list that dom0 is writing.
var ErrIncomplete = errors.New("dom0 has not finished writing it")

// A List is what QubesDB says that one AppVM may reach.
type List struct {
	Name     string     // of the AppVM; "" if it is not known
	Addr     netip.Addr // of the AppVM; invalid if it is not known
	Path     string     // in QubesDB
	Firewall bool       // it follows from firewall settings
	Lines    []string   // names and directives, as in a rule file of names
	Err      error      // why it cannot be used

	Until time.Time // when it says less; zero if never
}

// A Source reads lists, and knows which of them somebody is writing at this moment. A machine that never had the directory of the socket
// is not one of Qubes': there are no lists, and that is no error.
type Source struct {
	socket   string
	firewall bool // settings of the AppVMs' firewalls count as lists

	asking sync.Mutex // one question at a time

	mu      sync.Mutex
	watched *watched // nil while nobody watches
	seen    bool     // there was a directory for the socket
	changes int      // that watching has told of
	last    reading
}

// A reading is what was read last, or why that failed.
type reading struct {
	at       time.Time
	changes  int // that had been told of before
	config   map[string]string
	settings map[string]string
	masks    map[string]string
	err      error
}

// watched is what the watching conversation knows.
type watched struct {
	conn    *conn
	since   time.Time
	writing map[netip.Addr]bool // AppVMs whose firewall settings are being written
	touched map[netip.Addr]bool // those of whose settings something was told since the last reading began
	passed  chan struct{}       // an answer to a question of await
}

// NewSource returns a Source that reads at a socket, usually [Socket]. With firewall, the firewall settings of AppVMs are lists too.
func NewSource(socket string, firewall bool) *Source {
	return &Source{socket: socket, firewall: firewall}
}

// Watch calls changed whenever a list may have changed and is complete, and once when it has begun to watch, until ctx ends. Then it
// returns nil. Before that, it calls report with nil. An error means that changes may be missed from now on. If there is no directory
// for the socket and never was one, Watch waits for it.
func (s *Source) Watch(ctx context.Context, changed func(), report func(error)) error {
	if s.absent() {
		if err := s.waitForSocket(ctx, report); err != nil || ctx.Err() != nil {
			return err
		}
	}
	c, hangUp, err := dial(ctx, s.socket)
	if err != nil {
		return err
	}
	defer hangUp()
	w := &watched{conn: c, writing: map[netip.Addr]bool{}, touched: map[netip.Addr]bool{}, passed: make(chan struct{}, 1)}
	defer s.watching(nil)
	err = s.follow(w, func() { report(nil); changed() })
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch QubesDB: %w", err)
}

// absent reports whether this is no VM of Qubes: there is no directory for the socket, and never was one. While qubesdb-daemon is down
// the socket alone is not there (qubes-core-qubesdb 4.3.3, daemon/db-daemon.c: init_server_socket, close_server_socket), and nobody knows
// what dom0 has decided.
func (s *Source) absent() bool {
	_, err := os.Stat(filepath.Dir(s.socket))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = s.seen || !errors.Is(err, fs.ErrNotExist)
	return !s.seen
}

// waitForSocket returns nil when there is a directory for the socket, or when ctx ends.
func (s *Source) waitForSocket(ctx context.Context, report func(error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return watchfile.Watch{
		Paths: func() []string { return []string{s.socket} },
		Changed: func() {
			if !s.absent() {
				cancel()
			}
		},
		Report: report,
	}.Run(ctx)
}

// watching notes who watches from now on. What was not told before counts as changed.
func (s *Source) watching(w *watched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched = w
	s.changes++
	if w != nil {
		w.since = time.Now()
		s.last.err = nil
	}
}

// follow asks for changes, and tells of them.
func (s *Source) follow(w *watched, changed func()) error {
	prefixes := []string{configPrefix, firewallPrefix, maskPrefix}
	for _, prefix := range prefixes {
		if err := w.conn.send(cmdWatch, prefix); err != nil {
			return err
		}
	}
	for granted := 0; ; {
		m, err := w.conn.receive()
		switch {
		case err != nil:
			return err
		case m.kind == answerWatched && m.value == "":
			if s.note(w, m.path) && granted == len(prefixes) {
				changed()
			}
		case m.kind == answerOK && granted < len(prefixes):
			if granted++; granted == len(prefixes) {
				s.watching(w)
				changed()
			}
		case m.kind == answerNone || m.kind == answerOne:
			select {
			case w.passed <- struct{}{}:
			default:
			}
		default:
			return fmt.Errorf("%w: an answer of kind %d", ErrProtocol, m.kind)
		}
	}
}

// note takes in that something at a path has changed, and reports whether a list may have changed and is complete. dom0 removes the
// rules of an AppVM (IP/), writes them (IP/policy, IP/0000, …), and then writes the empty IP.
func (s *Source) note(w *watched, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest, is := strings.CutPrefix(path, firewallPrefix)
	if !is {
		concerns := strings.HasPrefix(path, listPrefix) || strings.HasPrefix(listPrefix, path) || strings.HasPrefix(path, maskPrefix)
		if concerns {
			s.changes++
		}
		return concerns
	}
	if !s.firewall {
		return false
	}
	s.changes++
	text, _, below := strings.Cut(rest, "/")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return rest == "" // all of it is gone
	}
	w.touched[addr] = true
	if below {
		w.writing[addr] = true
		return false
	}
	delete(w.writing, addr)
	return true
}

// await returns when the watching conversation has told all that was written before.
func (w *watched) await(ctx context.Context) error {
	select {
	case <-w.passed: // of a question that nobody waited for
	default:
	}
	if err := w.conn.send(cmdRead, strings.TrimSuffix(firewallPrefix, "/")); err != nil {
		return err
	}
	select {
	case <-w.passed:
		return nil
	case <-ctx.Done():
		w.conn.Close() // it may be half way through an answer that never ends: watching begins again
		return ctx.Err()
	}
}

// Changed reports whether Lists may return something else than it did last. It asks, because others may be faster than what watching
// tells.
func (s *Source) Changed(ctx context.Context) bool {
	if s.absent() {
		return false
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s.mu.Lock()
	w, last := s.watched, s.last
	s.mu.Unlock()
	if w != nil && w.await(ctx) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.changes != last.changes
	}
	now, _ := s.read(ctx)
	return now.err != nil || !maps.Equal(now.config, last.config) || !maps.Equal(now.settings, last.settings) || !maps.Equal(now.masks, last.masks)
}

// Lists returns all lists, those that cannot be used with the reason. After an error nothing is known.
func (s *Source) Lists(ctx context.Context) (all []List, err error) {
	if s.absent() {
		return nil, nil
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	s.mu.Lock()
	last := s.last
	s.mu.Unlock()
	if last.err != nil && !errors.Is(last.err, ErrIncomplete) && time.Since(last.at) < failureTime {
		return nil, last.err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	now, writing := s.read(ctx)
	s.mu.Lock()
	s.last = now
	s.mu.Unlock()
	if now.err != nil {
		return nil, now.err
	}
	all = configured(now.config)
	if s.firewall {
		all = append(all, settled(now.settings, writing, time.Now())...)
	}
	return all, nil
}

// Shown returns the gateways that dom0 shows to AppVMs in the place of their own, by the AppVMs' addresses, as last read with Lists. The
// firewall VM has the network of such an AppVM in a namespace (vif-qubes-nat.sh of qubes-core-agent-linux 4.4.2), and gets what it sends to
// the gateway that it is shown with that address as the destination.
func (s *Source) Shown() map[netip.Addr]netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	shown := map[netip.Addr]netip.Addr{}
	for path, value := range s.last.masks {
		text, is := strings.CutSuffix(strings.TrimPrefix(path, maskPrefix), "/visible-gateway")
		addr, err := netip.ParseAddr(text)
		gateway, err2 := netip.ParseAddr(value)
		if is && err == nil && err2 == nil && addr.Is4() && gateway.Is4() && !gateway.IsUnspecified() && !gateway.IsLoopback() && !gateway.IsMulticast() {
			shown[addr] = gateway
		}
	}
	return shown
}

// read reads what lists are made of, and for whom firewall settings are being written.
func (s *Source) read(ctx context.Context) (now reading, writing map[netip.Addr]bool) {
	s.mu.Lock()
	now.changes = s.changes
	s.mu.Unlock()
	if now.config, now.err = dump(ctx, s.socket, listPrefix); now.err == nil && s.firewall {
		now.settings, writing, now.err = s.settings(ctx)
	}
	if now.err == nil {
		now.masks, now.err = dump(ctx, s.socket, maskPrefix)
	}
	now.at = time.Now()
	return now, writing
}

// settings returns the firewall settings of all AppVMs, and for whom they are being written.
//
// dom0 may finish a change while it is read, so what was read may be half of it although nobody writes any more. So everybody counts
// as being written of whom something is told meanwhile.
func (s *Source) settings(ctx context.Context) (entries map[string]string, writing map[netip.Addr]bool, err error) {
	s.mu.Lock()
	w := s.watched
	s.mu.Unlock()
	known := func() bool {
		if w == nil || w.await(ctx) != nil {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		writing = maps.Clone(w.writing)
		maps.Copy(writing, w.touched)
		return true
	}
	if known() { // all that was written before is told
		s.mu.Lock()
		clear(w.touched)
		s.mu.Unlock()
	}
	if entries, err = dump(ctx, s.socket, firewallPrefix); err != nil {
		return nil, nil, err
	}
	if known() && time.Since(w.since) >= settleTime {
		return entries, writing, nil
	}
	select {
	case <-time.After(settleTime):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	again, err := dump(ctx, s.socket, firewallPrefix)
	if err == nil && !maps.Equal(entries, again) {
		err = fmt.Errorf("read %s from QubesDB: %w", firewallPrefix, ErrIncomplete)
	}
	known()
	return again, writing, err
}

// Value returns what a path of QubesDB has; "" if there is no such path. It may be asked without a Source.
func Value(ctx context.Context, socket, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	entries, err := dump(ctx, socket, path)
	return entries[path], err
}
