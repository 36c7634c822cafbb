// Package trials tries requests that are explained. A trial is a proxy of its own, with the AppVM's policy, uid, sandbox and fence. It
// opens the connection and sends nothing.
//
// A trial listens at a port that is guarded like any other. The port is bound to an address of this machine's loopback, from which the
// daemon asks it, so no AppVM reaches it, not even its own. Like every binding, this one comes when the trial listens and goes before
// it ends.
//
// Concurrency: a List belongs to the loop. Another goroutine runs a trial, with values, and changes the list by [Means].
package trials

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/explain"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/tinyproxy"
)

const (
	trialsMax        = 4                      // at once, and one for each AppVM
	unbindingTimeout = time.Second            // until a trial is ended although its binding may be there
	reasonTimeout    = 500 * time.Millisecond // until nobody knows why a name has no address
)

// ErrNotItsTurn says that a trial may begin later.
var ErrNotItsTurn = errors.New("too many requests are being explained at once")

// A Question is a request to be tried under a policy.
type Question struct {
	Policy  *policy.Policy
	Request tinyproxy.Request
	// Apart gives the trial a uid of its own. The fence then opens to it what its policy opens, and the AppVM's proxy does not
	// have that.
	Apart bool
}

// Means is what a trial is run with.
type Means struct {
	Starter  proxies.Starter
	UIDs     *tinyproxy.Identities
	Attempts func(uid uint32, port uint16) ([]firewall.Attempt, error)
	NoName   func(uid uint32, host string) (why string) // "" if a name has an address, or if that is not known
	// Change has the owner of the list call a function, and write the firewall again.
	Change func(func())
	// End does the same, and frees the port.
	End func(change func(), port uint16)
}

// A List is the trials that are under way.
type List struct{ all []*trial }

type trial struct {
	Question
	port          uint16
	from          netip.Addr // the daemon asks from there: loopback, and no other trial's
	give          context.CancelFunc
	listens, over bool
	bound, gone   chan struct{} // closed when the binding is there, and when it is no longer
}

// MayBegin returns ErrNotItsTurn if no trial for an AppVM may begin now.
func (l *List) MayBegin(vm netip.Addr) error {
	if len(l.all) >= trialsMax || slices.ContainsFunc(l.all, func(t *trial) bool { return t.Policy.Addr == vm }) {
		return ErrNotItsTurn
	}
	return nil
}

// Begin adds a trial at a port. It returns what runs the trial, for another goroutine: it says on outcome, which takes one without
// waiting, what came of it. The trial is given up when ctx or life ends.
func (l *List) Begin(ctx, life context.Context, q Question, port uint16, m Means, outcome chan<- explain.Tried) (run func()) {
	t := &trial{
		Question: q, port: port, from: netip.AddrFrom4([4]byte{127, byte(port >> 8), byte(port), 1}),
		bound: make(chan struct{}), gone: make(chan struct{}),
	}
	ctx, t.give = context.WithCancel(ctx)
	l.all = append(l.all, t)
	r := runner{
		Means: m, Question: q, port: port, from: t.from, uid: m.UIDs.UID(t.who()), bound: t.bound, gone: t.gone, outcome: outcome,
		listens: func() { t.listens = true },
		over:    func() { t.over = true },
		ended:   func() { l.all = slices.DeleteFunc(l.all, func(u *trial) bool { return u == t }) },
	}
	give := t.give
	return func() {
		defer give()
		defer context.AfterFunc(life, give)()
		r.run(ctx, life)
	}
}

// Allowances returns what the fence is to let trials do that are apart, as long as they are asked.
func (l *List) Allowances() (all []policy.Allowance) {
	for _, t := range l.all {
		if t.Apart && t.asked() {
			a := t.Policy.Allowance()
			a.Addr, a.Ports, a.Upstreams = t.from, nil, nil // these would be open for all
			all = append(all, a)
		}
	}
	return all
}

// Addrs returns the addresses for whose uids trials run.
func (l *List) Addrs() (all []netip.Addr) {
	for _, t := range l.all {
		all = append(all, t.who())
	}
	return all
}

// Bindings returns bindings of AppVMs with those of trials that listen.
func (l *List) Bindings(ofAppVMs []firewall.Binding) []firewall.Binding {
	all := slices.DeleteFunc(slices.Clone(ofAppVMs), firewall.Binding.Local)
	for _, t := range l.all {
		if t.asked() {
			all = append(all, t.binding())
		}
	}
	return all
}

// Bound takes in that the firewall has these bindings now.
func (l *List) Bound(bindings []firewall.Binding) {
	for _, t := range l.all {
		there := slices.Contains(bindings, t.binding())
		switch {
		case there:
			closeOnce(t.bound)
		case t.over:
			closeOnce(t.gone)
		}
	}
}

// Has reports whether a binding is that of a trial that may be asked.
func (l *List) Has(b firewall.Binding) bool {
	return slices.ContainsFunc(l.all, func(t *trial) bool { return t.asked() && t.binding() == b })
}

// GiveUp ends all trials.
func (l *List) GiveUp() {
	for _, t := range l.all {
		t.give()
	}
}

// who returns the address whose uid it has.
func (t *trial) who() netip.Addr {
	if t.Apart {
		return t.from
	}
	return t.Policy.Addr
}

// asked reports whether a trial listens, and is not over.
func (t *trial) asked() bool { return t.listens && !t.over }

func (t *trial) binding() firewall.Binding {
	return firewall.Binding{Vif: "lo", Addr: t.from, To: netip.AddrPortFrom(t.Policy.Bind, t.port)}
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// A runner runs a trial from start to end.
type runner struct {
	Means
	Question
	port                 uint16
	from                 netip.Addr
	uid                  uint32
	bound, gone          <-chan struct{}
	outcome              chan<- explain.Tried
	listens, over, ended func() // for Change and End
}

func (r runner) run(ctx, life context.Context) {
	proxy, err := r.Starter.Try(ctx, r.Policy, r.uid, r.port, r.Request)
	if err != nil {
		r.outcome <- explain.Tried{Err: err}
		r.End(r.ended, r.port)
		return
	}
	r.Change(r.listens)
	select {
	case <-r.bound:
		o := explain.Tried{}
		if o.Outcome, o.Err = proxy.Ask(ctx, r.from); o.Err == nil && o.Stage == tinyproxy.Opening {
			o.Stuck = r.stuck()
		}
		if o.Err == nil && o.Stage == tinyproxy.Unknown {
			o.Name = r.noName()
		}
		r.outcome <- o
		r.Change(r.over)
		select {
		case <-r.gone:
		case <-time.After(unbindingTimeout):
		case <-life.Done():
		}
	case <-ctx.Done():
		r.outcome <- explain.Tried{Err: ctx.Err()}
	}
	proxy.Kill()
	r.End(r.ended, r.port)
}

// noName returns why the name of the host has no address; "" if that is not known. The resolver answers the proxy and tells the daemon side
// by side, so the daemon may hear of it a moment later.
func (r runner) noName() (why string) {
	for begin := time.Now(); why == "" && time.Since(begin) < reasonTimeout; time.Sleep(time.Millisecond) {
		why = r.NoName(r.uid, r.Request.Host)
	}
	return why
}

// stuck returns where a connection that is being opened would lead if what is sent for it left this VM; the zero AddrPort if it
// does, or if that is not known.
func (r runner) stuck() (to netip.AddrPort) {
	tries, err := r.Attempts(r.uid, r.Request.Port)
	if i := slices.IndexFunc(tries, func(a firewall.Attempt) bool { return !a.Left }); err == nil && i >= 0 {
		to = tries[i].To
	}
	return to
}
