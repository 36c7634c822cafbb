package nameserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/names/wire"
)

const (
	// reportRate is how many reports a second the resolver may make in the long run: 250 AppVMs with 32 questions each to name servers
	// make 8000.
	reportRate  = 20000
	reportBurst = 40000

	// judgesMax is how many real tinyproxies judge names at once.
	judgesMax = 8

	// doubtsMax is how many names wait to be judged.
	doubtsMax = 1024

	// judgeTimeout is how long one may take.
	judgeTimeout = 10 * time.Second
)

// report takes in what the resolver says. It believes what a resolver can have to say. An error means that the resolver is not one of
// ours any more.
func (r *session) report(m wire.Report) error {
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	r.heard = true
	if m.Ready == r.ready {
		return errors.New("it begins twice, or not at all")
	}
	switch {
	case m.Ready:
		r.begin()
	case m.Opened != 0:
		if !r.openings[m.Opened] {
			return fmt.Errorf("gate %d is open", m.Opened)
		}
		delete(r.openings, m.Opened)
		r.opened = true
		r.beginIfOpen()
		if g := s.gates[m.Opened]; g != nil && !g.isOpen {
			g.isOpen = true
			close(g.opened)
		}
	case m.Closed != 0:
		g := s.gates[m.Closed]
		if g == nil || !g.closing {
			return fmt.Errorf("gate %d is closed", m.Closed)
		}
		delete(s.gates, m.Closed)
	case m.Pin != nil:
		return r.pin(m.Pin)
	case m.Unpin != nil:
		if !s.knows(m.Unpin.UID) {
			return fmt.Errorf("uid %d is not pinned", m.Unpin.UID)
		}
		s.pins.unpin(m.Unpin)
	case m.Judge != nil:
		return r.judge(m.Judge)
	case m.Answer != nil:
		return r.answer(m.Answer)
	case m.Event != nil:
		s.event(m.Event)
	}
	return nil
}

// begin notes that the resolver is ready.
func (r *session) begin() {
	s := r.server
	r.ready = true
	s.run = r
	if s.settings != nil {
		r.replay()
	}
	if s.changed != nil {
		s.ending.Go(s.changed) // it may ask for the Problem
	}
}

// knows reports whether a uid has a gate, or had one until a moment ago.
func (s *Server) knows(uid uint32) bool {
	for _, g := range s.gates {
		if g.order.UID == uid {
			return true
		}
	}
	return false
}

// pin has addresses pinned, unless nobody may ask for them any more.
func (r *session) pin(p *wire.Pin) error {
	s := r.server
	if !s.knows(p.UID) {
		return fmt.Errorf("addresses for uid %d", p.UID)
	}
	if i := slices.IndexFunc(p.Addrs, func(a netip.Addr) bool { return !firewall.Public(a) }); i >= 0 {
		return fmt.Errorf("%v for uid %d", p.Addrs[i], p.UID)
	}
	if !s.hasGate(p.UID) {
		r.send(wire.Order{Pinned: &wire.Done{ID: p.ID}})
		return nil
	}
	s.pins.pin(r, p)
	return nil
}

// judge has a real tinyproxy asked.
func (r *session) judge(d *wire.Doubt) error {
	s := r.server
	if r.doubts == doubtsMax || d.Name == "" {
		return fmt.Errorf("%d names that it cannot judge", r.doubts)
	}
	r.doubts++
	s.ending.Go(func() {
		judged := wire.Judged{ID: d.ID, Failed: true}
		select {
		case s.judges <- struct{}{}:
			permits, err := s.permits(d)
			judged.Permits, judged.Failed = permits, err != nil
			<-s.judges
		case <-r.over:
		}
		s.mu.Lock()
		r.doubts--
		s.mu.Unlock()
		r.send(wire.Order{Judged: &judged})
	})
	return nil
}

var errNoGate = errors.New("its gate has been closed")

// permits asks a real tinyproxy.
func (s *Server) permits(d *wire.Doubt) (bool, error) {
	s.mu.Lock()
	g := s.gates[d.Gate]
	known := g != nil && !g.closing
	s.mu.Unlock()
	if !known {
		return false, errNoGate
	}
	ctx, cancel := context.WithTimeout(s.life, judgeTimeout)
	defer cancel()
	permits, err := s.o.Judge(ctx, d.Gate, d.Name)
	if err != nil && s.life.Err() == nil {
		s.o.Events.Log.Warn("cannot tell whether a list permits a name", "host", d.Name, "err", err)
	}
	return permits, err
}

// answer hands an answer to who has asked.
func (r *session) answer(a *wire.Answer) error {
	s := r.server
	if a.ID > s.lastID {
		return fmt.Errorf("an answer to question %d", a.ID)
	}
	if a.ID == r.ping {
		r.answered = true
	}
	if q := s.asked[a.ID]; q != nil {
		delete(s.asked, a.ID)
		q.answer <- *a
	}
	return nil // a question may have been given up
}

// event notes why names are not answered, and tells of proxies that are none.
func (s *Server) event(e *wire.Event) {
	if !s.knows(e.UID) {
		return // its gates were closed meanwhile
	}
	if e.Name != "" {
		s.failures.add(e, time.Now())
	}
	if e.Failure == wire.Owned && s.o.OnOwned != nil {
		s.o.OnOwned(*e)
	}
}
