package supervisor

import (
	"fmt"
	"net/netip"
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
			l.hold(d.Name, d.Addr, by)
		}
		return
	}
}

// Hold stops an AppVM that nobody has seen for long. It never waits, and is heard before a process that starts for the AppVM can serve.
func (s *Supervisor) Hold(name string, addr netip.Addr, why string) {
	s.mail.Post(func(l *loop) { l.hold(name, addr, "--on-unseen=hold, because "+why) })
}

func (l *loop) hold(name string, addr netip.Addr, by string) {
	l.inputs.Stops.Hold(name, addr, by, time.Now())
	l.keep() // the outcome is in the troubles
	l.changed = true
}
