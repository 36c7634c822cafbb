package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/internal/events"
	"vifproxy/names/wire"
	"vifproxy/tinyproxy"
)

const (
	// readyMax is how long the resolver may take until it is ready. It takes some ms.
	readyMax = 10 * time.Second

	// lookInterval is the time between looks whether the resolver answers. One that answers to nothing at so many looks in a row has
	// stopped. It may be busy with a long list for seconds.
	lookInterval = 2 * time.Second
	looksMax     = 3

	// opensMax is the number of looks in a row at which a resolver has opened none of the gates that it was told to open.
	opensMax = 15

	// writeMax is how long the resolver may take until it reads an order.
	writeMax = 10 * time.Second

	// ordersMax is how many orders wait for it.
	ordersMax = 1 << 16

	// A resolver that ends is followed by another one at once, if it has lived for a while. Otherwise the delay doubles.
	provenAfter  = time.Second
	restartDelay = 100 * time.Millisecond
	restartMax   = time.Second

	// An event for each end, as long as they are rare. If a resolver ends before it is of use, and for the same reason as the one before,
	// that is told after the interval, which doubles then.
	toldBurst    = 5
	toldInterval = 30 * time.Second
	toldMax      = time.Hour
)

// A session is the conversation with one resolver, from its start to its end. Its fields are guarded by the mutex of the server, unless
// they say otherwise.
type session struct {
	server *Server
	conn   *net.UnixConn
	flow   *rate.Limiter // of reports; the reader's

	ready    bool           // it has said so
	told     bool           // it has been told of all gates, and is told of each that comes
	begun    bool           // it has opened all gates that there were, and has settings and questions too: it answers
	openings map[int64]bool // gates that it has been told to open, and has not said that it has
	opened   bool           // one of these since the last look
	doubts   int            // names that it wants to have judged
	ping     int64          // the last question that asks whether it answers
	answered bool           // the ping
	heard    bool           // it has said something since the last look

	queueMu sync.Mutex
	queue   []wire.Order
	more    chan struct{} // has room for one: there is something in the queue

	endOnce sync.Once
	over    chan struct{} // closed when it ends
	why     error         // written before over is closed
}

// keep runs one resolver after the other.
func (s *Server) keep() {
	failed := 0
	for s.life.Err() == nil {
		began := time.Now()
		ready, why := s.once()
		if s.life.Err() != nil {
			return
		}
		proven := ready && time.Since(began) >= provenAfter
		if proven {
			failed = 0
		}
		delay := time.Duration(0)
		if failed > 0 {
			delay = min(restartDelay<<min(failed-1, 10), restartMax)
		}
		failed++
		s.tell(why, delay, proven)
		select {
		case <-time.After(delay):
		case <-s.life.Done():
		}
	}
}

// A repeated reason is why resolvers end again and again that have been of no use.
type repeated struct {
	why      string
	next     time.Time // when it is told again
	interval time.Duration
}

// due reports whether a reason is to be told: it is another one, or its time has come.
func (r *repeated) due(why string, now time.Time) bool {
	switch {
	case r.why != why:
		*r = repeated{why: why, interval: toldInterval}
	case now.Before(r.next):
		return false
	default:
		r.interval = min(2*r.interval, toldMax)
	}
	r.next = now.Add(r.interval)
	return true
}

// tell has people told why a resolver has ended.
func (s *Server) tell(why error, delay time.Duration, proven bool) {
	s.mu.Lock()
	changed := s.changed
	s.problem = why
	s.notTold++
	count := s.notTold
	if proven {
		s.repeated = repeated{}
	}
	told := (proven || s.repeated.due(why.Error(), time.Now())) && s.told.Allow()
	if told {
		s.notTold = 0
	}
	s.mu.Unlock()
	if told {
		s.o.Events.Emit(events.ResolverEnded, events.About{Err: why.Error(), RetryMS: events.CeilMS(delay), Count: count})
	}
	if changed != nil {
		changed()
	}
}

// once runs a resolver from its start to its end. It reports whether the resolver was ready, and why it ended.
func (s *Server) once() (ready bool, why error) {
	c, conn, err := s.spawn()
	if err != nil {
		return false, err
	}
	r := &session{server: s, conn: conn, flow: rate.NewLimiter(reportRate, reportBurst), openings: map[int64]bool{},
		more: make(chan struct{}, 1), over: make(chan struct{})}
	stop := context.AfterFunc(s.life, func() { r.end(errors.New("the daemon ends")) })
	defer stop()
	var parts sync.WaitGroup
	parts.Go(r.write)
	parts.Go(r.look)
	r.end(r.read())
	parts.Wait()
	s.mu.Lock()
	ready = r.ready
	if s.run == r {
		s.run = nil
	}
	for id, g := range s.gates {
		if g.closing {
			delete(s.gates, id)
			if uid := g.order.UID; s.hasGate(uid) {
				s.pins.closeSome(uid, nil)
			}
		}
	}
	s.mu.Unlock()
	return ready, c.end(r.why)
}

// end ends the session, if it has not ended.
func (r *session) end(why error) {
	r.endOnce.Do(func() {
		r.why = why
		close(r.over)
		r.conn.Close()
	})
}

// read reads what the resolver says until it makes no sense, or there is nothing more. It returns why.
func (r *session) read() error {
	_ = r.conn.SetReadDeadline(time.Now().Add(readyMax))
	decoder := wire.NewDecoder[wire.Report](r.conn)
	for first := true; ; first = false {
		m, err := decoder.Decode()
		if err != nil {
			return err
		}
		if !r.flow.Allow() {
			return errors.New("it says too much")
		}
		if m.Pin != nil || m.Unpin != nil {
			r.server.pins.await(r.over)
		}
		if err := r.report(m); err != nil {
			return fmt.Errorf("it says what makes no sense: %w", err)
		}
		if first {
			_ = r.conn.SetReadDeadline(time.Time{})
		}
	}
}

// send has an order written. It never waits.
func (r *session) send(o wire.Order) {
	r.queueMu.Lock()
	defer r.queueMu.Unlock()
	if len(r.queue) == ordersMax {
		r.end(errors.New("it does not read"))
		return
	}
	r.queue = append(r.queue, o)
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// write writes what is sent.
func (r *session) write() {
	encoder := wire.NewEncoder[wire.Order](r.conn)
	for {
		select {
		case <-r.more:
		case <-r.over:
			return
		}
		r.queueMu.Lock()
		orders := r.queue
		r.queue = nil
		r.queueMu.Unlock()
		for _, o := range orders {
			_ = r.conn.SetWriteDeadline(time.Now().Add(writeMax))
			if err := encoder.Encode(o); err != nil {
				r.end(fmt.Errorf("it does not read: %w", err))
				return
			}
		}
	}
}

// look asks the resolver now and then for something that it has to answer at once: a name, for a uid that never has a gate.
func (r *session) look() {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for silent, stuck := 0, 0; silent < looksMax && stuck < opensMax; {
		select {
		case <-ticker.C:
		case <-r.over:
			return
		}
		s := r.server
		s.mu.Lock()
		switch {
		case r.heard || !r.ready || s.pins.full(): // or reading has its own bound, or waits for the kernel
			silent = 0
		case r.ping == 0 || r.answered:
			s.lastID++
			r.ping, r.answered = s.lastID, false
			r.send(wire.Order{Ask: &wire.Question{ID: r.ping, UID: tinyproxy.NamesUID, Name: "alive.invalid"}})
		default:
			silent++
		}
		if stuck++; r.opened || len(r.openings) == 0 {
			stuck = 0
		}
		r.heard, r.opened = false, false
		s.mu.Unlock()
	}
	r.end(errors.New("it does not answer"))
}

// knowsGates reports whether the resolver has been told of all gates, and is told of each that comes.
func (r *session) knowsGates() bool { return r != nil && r.told }

// answers reports whether the resolver has been told everything.
func (r *session) answers() bool { return r != nil && r.begun }

// replay tells the resolver of all gates.
func (r *session) replay() {
	s := r.server
	r.told = true
	s.forget(time.Now())
	for _, closed := range s.recent {
		r.send(wire.Order{Open: &closed.order})
	}
	for _, id := range sortedKeys(s.gates) {
		r.open(s.gates[id])
	}
	r.beginIfOpen()
}

// beginIfOpen has the resolver answer questions, once it has opened all gates: it reads the socket from the first settings on, and drops a
// question for which there is no gate.
func (r *session) beginIfOpen() {
	s := r.server
	if r.begun || len(r.openings) > 0 {
		return
	}
	r.begun = true
	r.send(wire.Order{Settings: s.settings})
	for _, id := range sortedKeys(s.asked) {
		r.send(wire.Order{Ask: &s.asked[id].order})
	}
}

func (r *session) open(g *gate) {
	r.openings[g.order.ID] = true
	r.send(wire.Order{Open: &g.order})
}

func (r *session) shut(id int64) { r.send(wire.Order{Close: id}) }

func sortedKeys[V any](m map[int64]V) []int64 {
	keys := make([]int64, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// reason returns why a resolver ended: its own words if it crashed, otherwise what ended the session.
func reason(why error, said []string) error {
	for _, line := range said {
		if crash.MatchString(line) {
			return fmt.Errorf("%w%s", why, tinyproxy.Quoted([]string{line}))
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("%w%s", why, tinyproxy.Quoted([]string{strings.TrimSpace(said[len(said)-1])}))
	}
	return why
}
