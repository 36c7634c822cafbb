// Package nameserver is the daemon's side of the resolver, vifproxy-names: it starts that program, confined, and keeps it running. It
// tells it what proxies may ask for, pins what it has answered, and asks it for names itself.
//
// The daemon makes the socket that questions come to, and keeps it: questions wait in it while no resolver runs. The resolver is not
// trusted. It parses what hostile proxies and name servers send, and may belong to one of them. It can pin public addresses for
// proxies that have a gate, and nothing else (report.go). If it says anything else, another one is started.
//
// A resolver that has ended leaves nothing behind that the next one would have to know. The next one gets settings and gates again, and
// begins with empty caches. Of the pins only the daemon knows who made them (pins.go).
//
// Concurrency: all methods of a [Server] may be called from any goroutine.
package nameserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy/confine"
)

// patience is how long Open and LookUp wait for the resolver.
const patience = 10 * time.Second

// nameMax is the length of a name in the DNS as people write it, with a period at its end (RFC 1035, section 3.1).
const nameMax = 254

// gateMax is how many bytes the lines of a gate may have. A rule file has 1 MiB, and its lines are longer when they are compiled. JSON may
// write a byte as six, and an order has 64 MiB (wire.OrderMax).
const gateMax = 8 << 20

// Options are the settings of a Server.
type Options struct {
	Program string           // path of vifproxy-names
	Sandbox *confine.Sandbox // that it is confined by
	Pinner  firewall.Pinner
	Events  *events.Emitter

	// Judge asks a real tinyproxy whether a gate permits a name, for lines that nobody else knows exactly. Some run at once.
	Judge func(ctx context.Context, gate int64, name string) (bool, error)

	// OnOwned is called when a proxy has asked what no tinyproxy asks. It must not block. May be nil.
	OnOwned func(wire.Event)
}

// A Server keeps a resolver running.
type Server struct {
	o       Options
	program *os.File // as it was when the daemon started: an upgrade may replace it
	socket  *os.File // that questions come to; keep's
	port    uint16
	room    int // SO_RCVBUF of the socket
	pins    *pins
	forks   chan func() // to the thread that forks
	judges  chan struct{}
	told    *rate.Limiter // events about ends
	logged  *rate.Limiter // lines of what resolvers say

	life   context.Context // ends with Stop
	stop   context.CancelFunc
	ending sync.WaitGroup

	mu       sync.Mutex
	askers   map[uint32]netip.Addr
	lastID   int64 // of gates and questions
	settings *wire.Settings
	gates    map[int64]*gate
	recent   []recentGate // the last one last
	asked    map[int64]*question
	run      *session // the one that is ready; nil while there is none
	problem  error    // why there is none
	failures failures
	changed  func() // see OnChange
	notTold  int    // ends without an event
	repeated repeated
}

// A gate is what a generation may ask for.
type gate struct {
	order   wire.Gate
	opened  chan struct{} // closed when a resolver has had it once
	isOpen  bool          // opened is closed
	closing bool          // the resolver that runs has been told to close it, and has not said that it has
}

// A question is one of the daemon's own.
type question struct {
	order  wire.Question
	answer chan wire.Answer // has room for one
}

// An Error says why a name has no address.
type Error struct {
	Failure wire.Failure
	Why     string // for people
}

func (e *Error) Error() string { return cmp.Or(e.Why, string(e.Failure)) }

// Start makes the socket and begins to run the resolver. Package process comes before: it ends leftovers of an earlier run, in whose range
// of uids the resolver is, and has what this process has inherited closed where it executes a program. An error means that it can never run: the program is missing, or there can be no socket.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{
		o: o, pins: newPins(o.Pinner), forks: make(chan func()), judges: make(chan struct{}, judgesMax),
		told:   rate.NewLimiter(rate.Every(toldInterval), toldBurst),
		logged: rate.NewLimiter(rate.Every(loggedInterval), loggedBurst),
		askers: map[uint32]netip.Addr{}, gates: map[int64]*gate{}, asked: map[int64]*question{}, failures: failures{},
		problem: errors.New("it has not started yet"),
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.program, err = os.Open(o.Program); err != nil {
		return nil, fmt.Errorf("no program to answer questions for names with: %w (reinstall vifproxy)", err)
	}
	if info, err := s.program.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o005 != 0o005 {
		return nil, fmt.Errorf("%s may not be executed by everybody (chmod 755 it)", o.Program)
	}
	if err = s.openSocket(); err != nil {
		return nil, fmt.Errorf("socket for questions for names: %w", err)
	}
	s.life, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan error)
	s.ending.Go(func() { s.fork(ready) })
	if err = <-ready; err != nil {
		s.stop()
		s.ending.Wait()
		return nil, fmt.Errorf("the resolver would keep capabilities: %w", err)
	}
	s.ending.Go(func() { s.pins.work(s.life) })
	s.ending.Go(s.keep)
	return s, nil
}

// Stop ends the resolver, and returns when it has ended. Pins stay until their time is over or the fence goes.
func (s *Server) Stop() {
	s.stop()
	s.ending.Wait()
	s.close()
}

func (s *Server) close() {
	for _, f := range []*os.File{s.program, s.socket} {
		if f != nil {
			f.Close()
		}
	}
}

// OnChange sets a function that is called when Problem may return something else, from any goroutine. It must not wait.
func (s *Server) OnChange(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = f
}

// Problem returns why no resolver runs; nil if one does.
func (s *Server) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil {
		return nil
	}
	return fmt.Errorf("names are not answered: %w", s.problem)
}

// Configure says what the machine says about names. Until it is called, nothing is answered.
func (s *Server) Configure(settings wire.Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.settings == nil
	s.settings = &settings
	switch {
	case s.run == nil:
	case first:
		s.run.replay()
	case s.run.begun:
		s.run.send(wire.Order{Settings: &settings})
	}
}

// Open opens a gate, whose ID and At it sets. It returns when the resolver has the gate, or after 10 s with an error, and then the gate
// is closed.
func (s *Server) Open(ctx context.Context, order wire.Gate) (id int64, err error) {
	at := s.Asker(order.UID)
	size := len(order.Lines)
	for _, line := range order.Lines {
		size += len(line)
	}
	switch {
	case !at.IsValid():
		return 0, errors.New("open its names: there have been too many AppVMs; restart vifproxyd")
	case size > gateMax:
		return 0, fmt.Errorf("open its names: a list of more than %d bytes", gateMax)
	}
	s.mu.Lock()
	s.lastID++
	order.ID, order.At = s.lastID, at.Addr()
	g := &gate{order: order, opened: make(chan struct{})}
	s.gates[order.ID] = g
	if s.run.knowsGates() {
		s.run.open(g)
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-g.opened:
		return order.ID, nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-s.life.Done():
		err = errors.New("the daemon ends")
	}
	s.Close(order.ID)
	if problem := s.Problem(); problem != nil {
		err = problem
	}
	return 0, fmt.Errorf("open its names: %w", err)
}

// Close closes a gate. What only that gate permitted is no longer pinned soon after. Close never waits.
func (s *Server) Close(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[id]
	if g == nil || g.closing {
		return
	}
	s.remember(g.order)
	if g.closing = s.run.knowsGates(); g.closing {
		s.run.shut(id)
	} else {
		delete(s.gates, id)
	}
	if uid := g.order.UID; s.hasGate(uid) {
		s.pins.closeSome(uid, s.run)
	} else {
		s.pins.closeAll(uid)
	}
}

// hasGate reports whether a uid may ask anything.
func (s *Server) hasGate(uid uint32) bool {
	for _, g := range s.gates {
		if g.order.UID == uid && !g.closing {
			return true
		}
	}
	return false
}

// LookUp asks for the addresses of a name, as the gates of a uid permit; for uid 0 as the daemon itself, which may ask for all names.
// For the daemon nothing is pinned. The error is an *Error if there is an answer that has no address.
func (s *Server) LookUp(ctx context.Context, uid uint32, name string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{addr.Unmap().WithZone("")}, nil
	}
	if len(name) > nameMax {
		return nil, &Error{wire.NoSuchName, "it is longer than a name can be"}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.mu.Lock()
	s.lastID++
	q := &question{wire.Question{ID: s.lastID, UID: uid, Name: name}, make(chan wire.Answer, 1)}
	s.asked[q.order.ID] = q
	if s.run.answers() {
		s.run.send(wire.Order{Ask: &q.order})
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asked, q.order.ID)
	}()
	select {
	case a := <-q.answer:
		if a.Failure != "" {
			return nil, &Error{a.Failure, a.Why}
		}
		return a.Addrs, nil
	case <-ctx.Done():
		if problem := s.Problem(); problem != nil {
			return nil, problem
		}
		return nil, &Error{wire.Silent, "no answer came in time"}
	case <-s.life.Done():
		return nil, errors.New("the daemon ends")
	}
}

// Why returns the last reason why a name had no answer for a uid, if that was in the last 30 s.
func (s *Server) Why(uid uint32, name string) (wire.Failure, string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.failures.last(uid, name, time.Now())
	return f.failure, f.why, ok
}

// firstAsker is the address of the first asker, and those after it are of the others. A distribution's own name server may be at a low
// address of the loopback, such as 127.0.0.53.
var firstAsker = [4]byte{127, 64, 0, 1}

// askersMax is how many addresses there are for askers, 127.64.0.0/10 less the first and the last.
const askersMax = 1<<22 - 2

// Asker returns where the questions of a uid are to be sent on to. A uid always has the same address, and no other uid ever gets it. The
// zero AddrPort means that four million uids have used up all.
func (s *Server) Asker(uid uint32) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, ok := s.askers[uid]
	if !ok && len(s.askers) == askersMax {
		return netip.AddrPort{}
	}
	if !ok {
		n := uint32(len(s.askers)) + uint32(firstAsker[1])<<16 + uint32(firstAsker[3])
		addr = netip.AddrFrom4([4]byte{firstAsker[0], byte(n >> 16), byte(n >> 8), byte(n)})
		s.askers[uid] = addr
	}
	return netip.AddrPortFrom(addr, s.port)
}
