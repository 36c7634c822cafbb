package supervisor

import (
	"context"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
)

// lastSyncTimeout is how long each of the two writes of the firewall may take when the daemon ends. With proxies.StopGrace between them
// they stay below the 10 s that systemd allows (TimeoutStopSec in vifproxyd.service).
const lastSyncTimeout = 3 * time.Second

// endingTimeout is how much longer a write may take that is under way when the daemon is told to end. A check may be two of them. After
// the same time, processes that may have no fence do not wait for the next write either.
const endingTimeout = 500 * time.Millisecond

// shutdown takes bindings and openings away, then the processes, then all that is ours in the firewall, the fence too.
func (l *loop) shutdown() error {
	l.notify("STOPPING=1")
	l.Events.Emit(events.DaemonStops, events.About{})
	// The last write does not fail because somebody undid the rules before it. But it waits less long if somebody may have undone the fence.
	l.guard = guard{suspect: l.guard.suspect || l.mail.Pending(mailbox.Firewall)}
	delete(l.troubles, "firewall")
	l.over()
	l.life, l.writeTimeout, l.patience = context.WithoutCancel(l.life), lastSyncTimeout, endingTimeout // for the last writes
	if l.writing != nil {
		l.writing.putOff() // a check too
	}
	l.sync(firewall.State{}, time.Now())
	l.completeWrite(time.Now())
	l.end(plan.All(l.actual(), plan.Gently, "vifproxyd stops"))
	l.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastSyncTimeout)
	defer cancel()
	return l.Firewall.Remove(ctx) // takes the bindings away too, if the write before has failed
}
