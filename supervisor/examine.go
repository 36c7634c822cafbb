package supervisor

import (
	"context"

	"vifproxy/internal/events"
	"vifproxy/internal/explain"
)

// examine finds out what became of a connection that a proxy could not make, and records it then. It reports whether it does. It does
// not wait: the loop hands on the fence, and another goroutine does the rest.
func (s *Supervisor) examine(d events.Denial) bool {
	if !s.looks.Begin(d.IP) {
		return false
	}
	s.mail.Post(func(l *loop) {
		fence, life := l.fenced, l.life
		l.running.Go(func() {
			defer s.looks.End(d.IP)
			ctx, cancel := context.WithTimeout(life, explain.LookTimeout)
			defer cancel()
			s.config.Events.Record(s.explainer().Outcome(ctx, fence, d))
		})
	})
	return true
}
