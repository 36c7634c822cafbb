package news

import (
	"maps"
	"time"

	"vifproxy/internal/plan"
)

// States says how each AppVM is, and since when. It belongs to one goroutine.
type States map[plan.Identity]StateSince

// A StateSince is the condition of an AppVM.
type StateSince struct {
	Condition
	Since time.Time // when it came into this state
	Seen  time.Time // when it was last connected; zero: not since the daemon started
	noted time.Time
}

// Note notes how the AppVMs are now that should be there, and forgets all others. of returns how one is.
func (s States) Note(want []*plan.Desired, of func(*plan.Desired) Condition, now time.Time) {
	for _, d := range want {
		who := d.Identity()
		is := s[who]
		was := is.State
		if is.Condition = of(d); is.State != was {
			is.Since = now
		}
		if d.StoppedBy != "" {
			is.Since = d.Since // maybe in an earlier life of the daemon
		}
		if d.Connected() {
			is.Seen = now
		}
		is.noted = now
		s[who] = is
	}
	maps.DeleteFunc(s, func(_ plan.Identity, is StateSince) bool { return is.noted != now }) // their rule files are gone
}
