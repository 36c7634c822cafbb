package ask

import (
	"net/netip"
	"sync"
	"time"
)

const (
	waitMin     = 50 * time.Millisecond  // for a server until the next one is asked too
	waitMax     = 300 * time.Millisecond // the same, and for a server that has not been measured
	silentAfter = 2 * time.Second        // without an answer
	probeMin    = 5 * time.Second        // until a silent server is asked first again
	probeMax    = time.Minute            // the same, after many tries
	plainTime   = time.Hour              // for which a server is asked without EDNS
	errorsMax   = 3                      // in a row, until the next server is asked at the same time
)

// A server is what is known of a name server. Its methods may be called from any goroutine.
type server struct {
	addr netip.AddrPort

	mu         sync.Mutex
	mean, vary time.Duration // of the time of an answer (RFC 6298); 0 if it has never answered
	answered   time.Time     // when it last answered
	unanswered time.Time     // when it was asked first since then; zero if it was not
	misses     int           // questions in a row that it was silent to
	missed     time.Time     // when the last of these was counted
	probe      time.Time     // when it is asked first again although it is silent
	errors     int           // answers in a row that are errors
	edns       bool          // it has answered a question with EDNS
	plain      time.Time     // until then it is asked without EDNS
}

// A turn says how long a server is waited for until the next one is asked too.
type turn struct {
	*server
	wait time.Duration
}

// turns returns the servers in the order in which they are asked: that of the Config, and then those that are known to be silent. Now
// and then a silent one is asked in its place. Nobody waits for it.
func (a *Asker) turns(now time.Time) []turn {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first, last []turn
	for _, s := range a.servers {
		if wait, silent := s.turn(now); silent {
			last = append(last, turn{s, 0})
		} else {
			first = append(first, turn{s, wait})
		}
	}
	return append(first, last...)
}

// turn returns how long the server is waited for, and whether it is to be asked last. Nobody waits for one that is late, slow or failing.
func (s *server) turn(now time.Time) (wait time.Duration, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait = waitMax
	if s.mean > 0 {
		wait = max(waitMin, min(s.mean+4*s.vary, waitMax))
	}
	switch {
	case s.misses > 0 && now.Before(s.probe):
		return 0, true
	case s.misses > 0:
		s.probe = now.Add(s.probeInterval())
		return 0, false
	case s.errors >= errorsMax, s.mean > waitMax, !s.unanswered.IsZero() && now.Sub(s.unanswered) > wait:
		return 0, false
	}
	return wait, false
}

func (s *server) probeInterval() time.Duration {
	return min(probeMin<<min(s.misses-1, 8), probeMax)
}

// isSilent reports whether the server is known to be silent.
func (s *server) isSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.misses > 0
}

// ask notes a question, which is the nth to this server about the same, from 0. It returns whether to use EDNS. A server that has never
// answered EDNS may be silent to it.
func (s *server) ask(now time.Time, nth int) (edns bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered.IsZero() {
		s.unanswered = now
	}
	return !now.Before(s.plain) && (s.speaksEDNS() || (nth+s.misses)%2 == 0)
}

// speaksEDNS reports whether the server answers questions with EDNS, as far as is known: after a long silence it may be another one.
func (s *server) speaksEDNS() bool { return s.edns && s.misses < 2 }

// hear notes an answer to a question that was asked at a time.
func (s *server) hear(asked, now time.Time, edns, isError bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if took := now.Sub(asked); s.mean == 0 {
		s.mean, s.vary = took, took/2
	} else {
		s.vary += ((s.mean - took).Abs() - s.vary) / 4
		s.mean += (took - s.mean) / 8
	}
	if edns {
		s.edns = true
	} else if !s.speaksEDNS() && !s.unanswered.IsZero() && s.unanswered.Before(asked) { // it was silent to EDNS
		s.edns, s.plain = false, now.Add(plainTime)
	}
	s.answered, s.unanswered = now, time.Time{}
	s.misses = 0
	if s.errors++; !isError {
		s.errors = 0
	}
}

// refuseEDNS notes that the server does not understand EDNS.
func (s *server) refuseEDNS(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edns = false
	s.plain = now.Add(plainTime)
}

// miss notes that a question that was asked at a time has no answer. It means nothing if the server has answered another one since, and
// many questions that are lost at the same time count once.
func (s *server) miss(asked, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered.After(asked) || s.misses > 0 && asked.Before(s.missed.Add(s.probeInterval())) {
		return
	}
	s.misses++
	s.missed = now
	s.probe = now.Add(s.probeInterval())
}
