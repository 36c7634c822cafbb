package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// A proxy may not go where its AppVM may not: where the chains of hook forward drop what leaves by an interface, as the kill
// switch of a VPN does, the fence refuses what proxies send there, DNS included. By which interfaces proxies may leave can
// also be said (--egress-interface), and is not asked of those chains then.

// forwardTimeout is how long reading them may take.
const forwardTimeout = 2 * time.Second

var errForward = errors.New("nobody knows by which interfaces proxies may leave")

// readForward reads the chains of hook forward, and tells whether they say something new. What cannot be read stays as it
// was last known; until it has been read once, no proxy runs.
func (l *loop) readForward(now time.Time) (changed bool) {
	if !l.followsForward() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), forwardTimeout)
	defer cancel()
	forward, err := l.ReadForward(ctx)
	return l.heardForward(forward, err, now)
}

// followsForward reports whether the chains of hook forward decide by which interfaces proxies may leave.
func (l *loop) followsForward() bool { return len(l.Leave) == 0 && l.ReadForward != nil }

// heardForward takes in what the chains of hook forward were found to say.
func (l *loop) heardForward(forward firewall.Forward, err error, now time.Time) (changed bool) {
	if retry := l.troubles.Note(l.Events, now, "chains of hook forward", err); err != nil {
		l.guard.suspect = true
		l.agenda.by(dueCheck, retry)
		if l.forward == nil {
			l.unfence(fmt.Errorf("%w: %w: %w", firewall.ErrUnfenced, errForward, err))
		}
		return false
	}
	before := cmp.Or(l.forward, &firewall.Forward{})
	changed = l.forward == nil || !slices.Equal(before.Barred, forward.Barred) || before.Others != forward.Others ||
		!slices.Equal(before.Open, forward.Open)
	l.forward = &forward
	was, is := barredOf(*before), barredOf(forward)
	for _, b := range is {
		if !slices.Contains(was, b) {
			l.Events.Emit(events.Barred, events.About{What: b.Interface, Why: b.Rule})
		}
	}
	for _, b := range was {
		if !slices.ContainsFunc(is, func(a control.Barred) bool { return a.Interface == b.Interface }) {
			l.Events.Emit(events.NotBarred, events.About{What: b.Interface})
		}
	}
	return changed
}

// knowsForward tells whether it is known by which interfaces proxies may leave.
func (l *loop) knowsForward() bool {
	return l.forward != nil || !l.followsForward()
}

// barredOf are interfaces by which proxies may not leave, as people are told.
func barredOf(f firewall.Forward) (all []control.Barred) {
	for _, b := range f.Barred {
		all = append(all, control.Barred{Interface: b.Interface, Rule: b.Rule})
	}
	if f.Others != "" {
		all = append(all, control.Barred{Interface: "all others", Rule: f.Others})
	}
	return all
}

// leave is by which interfaces proxies may leave, none for all of them, and by which they may not. Loopback is neither.
func (l *loop) leave() (leave, barred []string) {
	if len(l.Leave) > 0 || l.forward == nil {
		return l.Leave, nil
	}
	for _, b := range l.forward.Barred {
		barred = append(barred, b.Interface)
	}
	if l.forward.Others != "" {
		leave = append([]string{"lo"}, l.forward.Open...) // an interface that comes is none of these
	}
	return leave, barred
}

// barredNow are the interfaces by which proxies may not leave, as people are told.
func (l *loop) barredNow() []control.Barred {
	if l.forward == nil || len(l.Leave) > 0 {
		return []control.Barred{}
	}
	return append([]control.Barred{}, barredOf(*l.forward)...)
}
