package nameserver

import (
	"slices"
	"time"

	"vifproxy/names/wire"
)

// A recentGate was closed a moment ago.
type recentGate struct {
	order wire.Gate
	until time.Time
}

// remember remembers a gate that is closed, for the next resolver.
func (s *Server) remember(order wire.Gate) {
	order.Closed = true
	of := 1
	for i, r := range slices.Backward(s.recent) {
		if r.order.UID != order.UID {
			continue
		}
		if of++; of > wire.RecentMax {
			s.recent = slices.Delete(s.recent, i, i+1)
			break
		}
	}
	s.recent = append(s.recent, recentGate{order, time.Now().Add(wire.RecentTime)})
	time.AfterFunc(wire.RecentTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(time.Now())
	})
}

// forget forgets what was closed too long ago.
func (s *Server) forget(now time.Time) {
	s.recent = slices.DeleteFunc(s.recent, func(r recentGate) bool { return !now.Before(r.until) })
}
