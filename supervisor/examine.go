package supervisor

import (
	"context"
	"time"

	"vifproxy/internal/events"
)

const (
	// examineTimeout is how long it may take to find out what became of a connection.
	examineTimeout = 2 * time.Second
	// examinedMax is how many connections are looked into at once, of all AppVMs, and examinedEach of one.
	examinedMax  = 16
	examinedEach = 4
)

// examine finds out what became of a connection that a proxy could not make, and records it then. It reports whether it does. It does
// not wait: the loop hands on the fence, and another goroutine does the rest.
func (s *Supervisor) examine(d events.Denial) bool {
	s.examined.Lock()
	defer s.examined.Unlock()
	if s.examined.all >= examinedMax || s.examined.by[d.IP] >= examinedEach {
		return false
	}
	s.examined.all++
	s.examined.by[d.IP]++
	s.mail.Post(func(l *loop) {
		fence, life := l.fenced, l.life
		l.running.Go(func() {
			ctx, cancel := context.WithTimeout(life, examineTimeout)
			defer cancel()
			s.Events.Record(s.explainer().Outcome(ctx, fence, d))
			s.examined.Lock()
			defer s.examined.Unlock()
			s.examined.all--
			if s.examined.by[d.IP]--; s.examined.by[d.IP] == 0 {
				delete(s.examined.by, d.IP)
			}
		})
	})
	return true
}
