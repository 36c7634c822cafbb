package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/news"
)

// A proxy may not go where its AppVM may not go. If the chains of hooks forward and postrouting drop what leaves by an interface, as the
// kill switch of a VPN does, the fence refuses what proxies send there, including questions for names. --egress-interface names the
// interfaces by which proxies may leave; then the loop does not read these chains.

// forwardTimeout is how long reading them may take.
const forwardTimeout = 2 * time.Second

var errForward = errors.New("nobody knows by which interfaces proxies may leave")

// readForward reads the chains of hook forward. If they cannot be read, what was last known stays. No proxy runs until they have been
// read once.
func (l *loop) readForward(now time.Time) {
	if !l.followsForward() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
	defer cancel()
	forward, err := l.Read.Forward(ctx)
	l.heardForward(forward, err, now)
}

// followsForward reports whether the chains of hook forward decide by which interfaces proxies may leave.
func (l *loop) followsForward() bool { return len(l.Leave) == 0 && l.Read.Forward != nil }

// heardForward takes in what the chains of hook forward say, and reports whether that is new.
func (l *loop) heardForward(forward firewall.Forward, err error, now time.Time) (changed bool) {
	if retry := l.troubles.Note(l.Events, now, "chains of hook forward", err); err != nil {
		l.guard.suspect = true
		l.agenda.By(agenda.Check, retry)
		if l.forward == nil {
			l.unfence(fmt.Errorf("%w: %w: %w", firewall.ErrUnfenced, errForward, err))
		}
		return false
	}
	before := cmp.Or(l.forward, &firewall.Forward{})
	changed = l.forward == nil || !before.Same(forward)
	l.forward = &forward
	news.EmitBarred(l.Events, *before, forward)
	return changed
}

// knowsForward reports whether it is known by which interfaces proxies may leave.
func (l *loop) knowsForward() bool { return l.forward != nil || !l.followsForward() }

// leave returns by which interfaces proxies may leave, none for all of them, and by which they may not. Loopback is neither.
func (l *loop) leave() (leave, barred []string) {
	if len(l.Leave) > 0 || l.forward == nil {
		return l.Leave, nil
	}
	return l.forward.Leave()
}

// barredNow returns the interfaces by which proxies may not leave, as people are told.
func (l *loop) barredNow() []control.Barred {
	if l.forward == nil || len(l.Leave) > 0 {
		return []control.Barred{}
	}
	return news.Barred(*l.forward)
}
