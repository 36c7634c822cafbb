package ask

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

const (
	SocketsMax = 1024 // that ask, of all shares together, beside those of the next row
	OwnSockets = 4    // of each share, which no other one can take: two families at two servers

	questionsMax  = 64  // of one share under way; further ones wait
	questionRate  = 32  // of one share, a second
	questionBurst = 256 // of one share, before that rate applies
	rateWait      = time.Second
)

// A Share asks for one AppVM. An AppVM that asks for too much waits or gets errors, and its neighbours do not notice.
type Share struct {
	asker     *Asker
	questions chan struct{} // one for each that is under way
	pace      *rate.Limiter
	sockets   int // that are open; guarded by asker.mu
}

// Share returns a new share of the questions that may be under way.
func (a *Asker) Share() *Share {
	return &Share{asker: a, questions: make(chan struct{}, questionsMax), pace: rate.NewLimiter(questionRate, questionBurst)}
}

// Silent is that of the Asker.
func (s *Share) Silent() bool { return s.asker.Silent() }

// Version is that of the Asker.
func (s *Share) Version() int { return s.asker.Version() }

// admit waits until the share may ask one more question. Done ends it.
func (s *Share) admit(ctx context.Context) (done func(), err error) {
	if !s.pace.Allow() {
		paced, cancel := context.WithTimeout(ctx, rateWait)
		defer cancel()
		if s.pace.Wait(paced) != nil {
			return nil, &Error{Reason: Busy}
		}
	}
	select {
	case s.questions <- struct{}{}:
		return func() { <-s.questions }, nil
	case <-ctx.Done():
		return nil, &Error{Reason: Busy}
	}
}

// open takes one of the sockets. Beyond its own, a share may have as many as are left, so the less the more shares ask (Choudhury and
// Hahne, Dynamic queue length thresholds, 1998).
func (s *Share) open() bool {
	s.asker.mu.Lock()
	defer s.asker.mu.Unlock()
	if s.sockets >= max(OwnSockets, SocketsMax-s.asker.sockets) {
		return false
	}
	s.asker.sockets++
	s.sockets++
	return true
}

// close gives one of the sockets back.
func (s *Share) close() {
	s.asker.mu.Lock()
	defer s.asker.mu.Unlock()
	s.asker.sockets--
	s.sockets--
}
