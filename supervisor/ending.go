package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/plan"
)

// A stopOrder is how a process is told to end: the cause with which its context is cancelled.
type stopOrder struct {
	plan.Ending
	heard time.Time // of the change that makes it end Soon
	why   string    // to be told when it is carried out; "" if that has been told
}

func (stopOrder) Error() string { return "told to end" }

// tell ends a generation, whatever it is doing. why is told when it ends; "" if that has been told.
func (p *process) tell(how plan.Ending, why string) {
	p.Dying = true
	o := stopOrder{Ending: how, why: why}
	if how == plan.Soon { // so there is another one, which serves
		o.heard = p.vm.current.asked
	}
	p.stop(o)
}

// A runner brings one process up, and ends it, beside the loop.
type runner struct {
	policy  *Policy
	port    uint16
	proxies Proxies
	forget  func(to netip.AddrPort, from []netip.AddrPort) error
	events  *events.Emitter
	cut     *atomic.Int64
	mail    *mailbox
	cameUp  func(*loop, Proxy)
	ended   func(*loop, error) // also where it never came up
	gone    func()             // called when nothing of it is left
}

// start brings the process up. It waits neither for its end nor for the order to end it, because a goroutine for each process
// would be a stack for each.
func (r runner) start(ctx context.Context) {
	over := func(err error) {
		r.mail.post(func(l *loop) { r.ended(l, err) })
		r.gone()
	}
	proxy, err := r.proxies.Start(ctx, r.policy, r.port)
	if err != nil {
		over(err)
		return
	}
	r.mail.post(func(l *loop) { r.cameUp(l, proxy) })
	proxy.WhenDone(func() { over(proxy.Err()) })
	context.AfterFunc(ctx, func() { // also if it was told to end while it came up
		order, _ := context.Cause(ctx).(stopOrder)
		r.end(proxy, order)
	})
}

// end ends the process as ordered. Clients whose vif has gone cannot be told, so their connections are to be forgotten.
func (r runner) end(proxy Proxy, order stopOrder) {
	if order.Ending == plan.Soon {
		finish(proxy, order.heard)
	}
	clients, err := proxy.Clients()
	r.cut.Store(int64(len(clients)))
	if order.why != "" {
		r.events.Emit(events.ProxyEnds, events.About{VM: r.policy.Name, IP: r.policy.Addr, Port: r.port, PID: proxy.PID(),
			Why: order.why, Connections: len(clients)})
	}
	if order.Ending == plan.Gently {
		proxy.Stop()
	} else {
		proxy.Kill()
	}
	// Not recorded as a trouble: nothing would ever retry and clear it.
	if err = errors.Join(err, r.forget(netip.AddrPortFrom(r.policy.Bind, r.port), clients)); err != nil {
		r.events.Emit(events.StillTracked, events.About{VM: r.policy.Name, IP: r.policy.Addr, Port: r.port, Err: err.Error()})
	}
}

// finishInterval is how often a process that is to end soon is asked whether it has answered all.
const finishInterval = 2 * time.Millisecond

// finish waits until a proxy that no new connection comes to has answered what it was asked. A tunnel or a download
// would take longer than it may: it is told from a short request by nothing but its length.
func finish(proxy Proxy, heard time.Time) {
	tick := time.NewTicker(finishInterval)
	defer tick.Stop()
	over := time.After(grace(time.Since(heard)))
	for {
		if clients, err := proxy.Clients(); err != nil || len(clients) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-proxy.Done():
			return
		case <-over:
			return
		}
	}
}

// grace is how long requests under way may take after a change that took so long to come into force. Revoked hosts are
// to be out of reach within 100 ms of the change, tunnels included. It takes some 20 to 40 ms, so there is time for a
// short request. Where it takes longer, that tells how slow the machine is now, and with it the request.
func grace(took time.Duration) time.Duration {
	const all, least, most = 86 * time.Millisecond, 50 * time.Millisecond, 250 * time.Millisecond
	return max(all-took, least, min(took, most))
}
