package supervisor

import (
	"fmt"
	"time"

	"vifproxy/internal/events"
	"vifproxy/names/wire"
)

// Owned takes in that a proxy has asked what no tinyproxy with its list asks, so that somebody has taken it over. With HoldOwned, its
// AppVM is stopped. Owned never waits.
func (s *Supervisor) Owned(e wire.Event) { s.mail.Post(func(l *loop) { l.owned(e) }) }

func (l *loop) owned(e wire.Event) {
	for _, d := range l.want {
		if !d.Addr.Is4() || l.Users.UID(d.Addr) != e.UID {
			continue
		}
		l.Events.Emit(events.Owned, events.About{VM: d.Name, IP: d.Addr, Host: e.Name, What: e.Type, Why: e.Why, Count: e.Count})
		if l.HoldOwned && d.StoppedBy == "" {
			by := "--on-owned=hold, because its proxy asked what no tinyproxy asks"
			if e.Name != "" {
				by = fmt.Sprintf("--on-owned=hold, because its proxy asked for %s", e.Name)
			}
			l.inputs.Stops.Hold(d.Name, d.Addr, by, time.Now())
			l.keep() // the outcome is in the troubles
			l.changed = true
		}
		return
	}
}
