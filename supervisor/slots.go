package supervisor

import (
	"time"

	"vifproxy/internal/agenda"
	"vifproxy/internal/beat"
	"vifproxy/internal/events"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
)

// lookForHeld looks whether clients hold all slots of a serving proxy, and has another process follow that one, as `restart` would.
func (l *loop) lookForHeld(listeners sockdiag.Listeners, now time.Time) {
	l.agenda.At(agenda.Held, beat.Next(now, proxies.HeldInterval))
	serving := map[int]bool{}
	for addr, vm := range l.vms {
		p := vm.current
		if p == nil || !p.rests() || vm.failures.Any() {
			continue
		}
		serving[p.ID] = true
		if by, err := p.proxy.Held(listeners); err == nil && l.slots.Note(p.ID, by, now) {
			p.Full = true
			l.inputs.Restarts[addr]++
			l.agenda.By(agenda.Plan, now)
			l.Events.Emit(events.ProxyFull, events.About{VM: p.Policy.Name, IP: addr, Port: p.Port, PID: p.pid(), Count: len(by)})
		}
	}
	l.slots.Keep(func(id int) bool { return serving[id] })
}
