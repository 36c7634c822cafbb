package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"vifproxy/internal/explain"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/policy"
	"vifproxy/internal/trials"
	"vifproxy/tinyproxy"
)

// tryInterval is the time between looks whether it is the turn of a trial.
const tryInterval = 10 * time.Millisecond

var errNotNow = errors.New("the firewall is being written")

// try tries a request under a policy, until ctx ends. It is apart if the policy is not the one that serves: nobody but the trial may
// reach then what that policy opens.
func (s *Supervisor) try(ctx context.Context, p *policy.Policy, r tinyproxy.Request, apart bool) explain.Tried {
	if !p.Bind.IsValid() || p.Bind.IsUnspecified() { // of an AppVM that is not connected
		p = p.At(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Places)
	}
	q, outcome := trials.Question{Policy: p, Request: r, Apart: apart}, make(chan explain.Tried, 1)
	for {
		_, err := mailbox.Ask(ctx, s.mail, func(l *loop) (struct{}, error) { return struct{}{}, l.beginTrial(ctx, q, outcome) })
		if err == nil {
			break
		}
		if !errors.Is(err, trials.ErrNotItsTurn) && !errors.Is(err, errNotNow) {
			return explain.Tried{Err: err}
		}
		select {
		case <-time.After(tryInterval):
		case <-ctx.Done():
			return explain.Tried{Err: err}
		}
	}
	select {
	case o := <-outcome:
		return o
	case <-s.mail.Done():
		return explain.Tried{Err: mailbox.ErrClosed}
	}
}

// beginTrial starts a trial if one may start now.
func (l *loop) beginTrial(ctx context.Context, q trials.Question, outcome chan<- explain.Tried) error {
	switch {
	case l.guard.unfenced != nil:
		return l.guard.unfenced
	case l.holds == nil:
		return errNotNow
	}
	if err := l.trials.MayBegin(q.Policy.Addr); err != nil {
		return err
	}
	port, err := l.ports.Take()
	if err != nil {
		return err
	}
	mail := l.mail
	l.running.Go(l.trials.Begin(ctx, l.life, q, port, trials.Means{
		Starter: l.Proxies, UIDs: l.Users, Attempts: l.Connections.Attempts, NoName: l.Names.WhyNone,
		Change: func(change func()) {
			mail.Post(func(l *loop) {
				change()
				l.changed = true
			})
		},
		End: func(change func(), port uint16) {
			mail.Post(func(l *loop) {
				change()
				l.freed, l.changed = append(l.freed, port), true
			})
		},
	}, outcome))
	return nil
}
