package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/explain"
	"vifproxy/internal/policy"
	"vifproxy/tinyproxy"
)

// A request that is explained is tried too: a proxy of its own, with the AppVM's policy, uid, sandbox and fence, opens the
// connection and sends nothing. It listens at a port that is guarded like any other, and bound to an address of this machine's
// loopback, from which the daemon asks it: so no AppVM reaches it, not even its own. Like all else, the binding comes when it
// listens and goes before it ends.

const (
	mostTries = 4                     // at once, and one for each AppVM
	tryAgain  = 10 * time.Millisecond // between looks whether it is its turn
	unbinding = time.Second           // until a trial is ended although its binding may be there
)

var (
	errNotItsTurn = errors.New("too many requests are being explained at once")
	errNotNow     = errors.New("the firewall is being written")
)

// trial is a process that is asked for one request. Channels are closed by the loop.
type trial struct {
	policy  *Policy
	request tinyproxy.Request
	apart   bool // it has a uid of its own, and in the fence what its policy opens, which the AppVM's proxy has not
	port    uint16
	from    netip.Addr // the daemon asks from there: loopback, and no other trial's
	give    context.CancelFunc

	listens, over bool          // belong to the loop
	bound, gone   chan struct{} // the binding is there, and is there no more
	outcome       chan explain.Tried
}

// try has a request tried under a policy, until ctx ends. It is apart if the policy is not the one that serves: nobody but
// the trial may reach then what that policy opens.
func (s *Supervisor) try(ctx context.Context, p *Policy, q tinyproxy.Request, apart bool) explain.Tried {
	if !p.Bind.IsValid() || p.Bind.IsUnspecified() { // of an AppVM that is not connected
		p = p.At(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Places)
	}
	t := &trial{policy: p, request: q, apart: apart, bound: make(chan struct{}), gone: make(chan struct{}), outcome: make(chan explain.Tried, 1)}
	for {
		_, err := s.ask(ctx, func(l *loop, reply chan<- answer) { reply <- answer{err: l.beginTrial(ctx, t, s.runTrial)} })
		if err == nil {
			break
		}
		if !errors.Is(err, errNotItsTurn) && !errors.Is(err, errNotNow) {
			return explain.Tried{Err: err}
		}
		select {
		case <-time.After(tryAgain):
		case <-ctx.Done():
			return explain.Tried{Err: err}
		}
	}
	select {
	case o := <-t.outcome:
		return o
	case <-s.done:
		return explain.Tried{Err: errStopping}
	}
}

// beginTrial starts a trial if it may be now. It belongs to the loop.
func (l *loop) beginTrial(ctx context.Context, t *trial, run func(ctx, life context.Context, t *trial)) error {
	switch {
	case l.guard.unfenced != nil:
		return l.guard.unfenced
	case l.holds == nil:
		return errNotNow
	case len(l.trials) >= mostTries, slices.ContainsFunc(l.trials, func(u *trial) bool { return u.policy.Addr == t.policy.Addr }):
		return errNotItsTurn
	}
	var err error
	if t.port, err = l.ports.take(); err != nil {
		return err
	}
	t.from = netip.AddrFrom4([4]byte{127, byte(t.port >> 8), byte(t.port), 1})
	ctx, t.give = context.WithCancel(ctx)
	l.trials = append(l.trials, t)
	life := l.life
	l.running.Go(func() {
		defer context.AfterFunc(life, t.give)()
		run(ctx, life, t)
	})
	return nil
}

// runTrial is a trial from start to end, beside the loop.
func (s *Supervisor) runTrial(ctx, life context.Context, t *trial) {
	defer t.give()
	uid := s.Users.UID(t.who())
	proxy, err := s.Proxies.Try(ctx, t.policy, uid, t.port, t.request)
	if err != nil {
		t.outcome <- explain.Tried{Err: err}
		s.post(func(l *loop) { l.endTrial(t) })
		return
	}
	s.post(func(l *loop) { t.listens, l.changed = true, true })
	select {
	case <-t.bound:
		o := explain.Tried{}
		if o.Outcome, o.Err = proxy.Ask(ctx, t.from); o.Err == nil && o.Stage == tinyproxy.Opening {
			o.Stuck = s.stuck(t.request, uid)
		}
		t.outcome <- o
		s.post(func(l *loop) { t.over, l.changed = true, true })
		select {
		case <-t.gone:
		case <-time.After(unbinding):
		case <-life.Done():
		}
	case <-ctx.Done():
		t.outcome <- explain.Tried{Err: ctx.Err()}
	}
	proxy.Kill()
	s.post(func(l *loop) { l.endTrial(t) })
}

// who is the address that the uid of the trial's proxy is for: the AppVM's, or that of the trial itself.
func (t *trial) who() netip.Addr {
	if t.apart {
		return t.from
	}
	return t.policy.Addr
}

// stuck returns where a connection that is being opened would lead if what is sent for it left this VM; the zero AddrPort if it
// does, or if that is not known.
func (s *Supervisor) stuck(q tinyproxy.Request, uid uint32) (to netip.AddrPort) {
	tries, err := s.Attempts(uid, q.Port)
	if i := slices.IndexFunc(tries, func(a firewall.Attempt) bool { return !a.Left }); err == nil && i >= 0 {
		to = tries[i].To
	}
	return to
}

// trialAllowances returns what the fence is to let trials do that are apart, as long as they are asked.
func (l *loop) trialAllowances() (exits []policy.Allowance) {
	for _, t := range l.trials {
		if t.apart && t.listens && !t.over {
			exits = append(exits, policy.Allowance{Addr: t.from, Openings: policy.Openings(t.policy.Egress), Own: t.policy.PortNumbers()})
		}
	}
	return exits
}

// endTrial follows the end of its process.
func (l *loop) endTrial(t *trial) {
	l.trials = slices.DeleteFunc(l.trials, func(u *trial) bool { return u == t })
	l.freed, l.changed = append(l.freed, t.port), true
}

// withTrials returns bindings of AppVMs with those of trials that listen.
func (l *loop) withTrials(bindings []firewall.Binding) []firewall.Binding {
	all := slices.DeleteFunc(slices.Clone(bindings), isTrial)
	for _, t := range l.trials {
		if b := t.binding(); t.listens && !t.over {
			all = append(all, b)
		}
	}
	return all
}

// isTrial reports whether a binding is a trial's: the interface is no AppVM's.
func isTrial(b firewall.Binding) bool { return b.Vif == "lo" }

func (t *trial) binding() firewall.Binding {
	return firewall.Binding{Vif: "lo", Addr: t.from, To: netip.AddrPortFrom(t.policy.Bind, t.port)}
}

// trialsBound follows a write that has these bindings.
func (l *loop) trialsBound(bindings []firewall.Binding) {
	for _, t := range l.trials {
		there := slices.Contains(bindings, t.binding())
		switch {
		case there:
			closeOnce(t.bound)
		case t.over:
			closeOnce(t.gone)
		}
	}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// tries reports whether a binding is that of a trial that may be asked.
func (l *loop) tries(b firewall.Binding) bool {
	return slices.ContainsFunc(l.trials, func(t *trial) bool { return t.listens && !t.over && t.binding() == b })
}

// giveUpTrials ends all trials.
func (l *loop) giveUpTrials() {
	for _, t := range l.trials {
		t.give()
	}
}
