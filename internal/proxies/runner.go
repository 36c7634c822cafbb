package proxies

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/policy"
)

// An Order is how a process is told to end: the cause with which its context is cancelled.
type Order struct {
	Kill    bool      // at once; otherwise it is asked first
	Revoked time.Time // if not zero: it is killed when it has answered what it was asked, soon after this change
	Why     string    // for the event; "" if that has been emitted
}

func (Order) Error() string { return "told to end" }

// A Runner brings one process up and ends it.
type Runner struct {
	Policy  *policy.Policy
	Port    uint16
	Starter Starter
	Forget  func(to netip.AddrPort, from []netip.AddrPort) error // connections of the ended process, see tracking.Forget
	Events  *events.Emitter
	Cut     *atomic.Int64 // connections of its AppVM that its end has cut
	CameUp  func(Proxy)
	Ended   func(error) // also if it never came up
}

// Start brings the process up. It waits neither for its end nor for the order to end it, which is an [Order] as the cause of ctx,
// because a goroutine for each process would be a stack for each.
func (r Runner) Start(ctx context.Context) {
	proxy, err := r.Starter.Start(ctx, r.Policy, r.Port)
	if err != nil {
		r.Ended(err)
		return
	}
	r.CameUp(proxy)
	proxy.WhenDone(func() { r.Ended(proxy.Err()) })
	context.AfterFunc(ctx, func() { // also if it was told to end while it came up
		order, _ := context.Cause(ctx).(Order)
		r.end(proxy, order)
	})
}

// end ends the process as ordered. A client whose vif has gone cannot be told, so its connection has to be forgotten.
func (r Runner) end(proxy Proxy, order Order) {
	look := proxy.Clients
	if !order.Revoked.IsZero() {
		look = func() ([]netip.AddrPort, error) { return finish(proxy, order.Revoked) }
	}
	clients, err := look()
	r.Cut.Store(int64(len(clients)))
	if order.Why != "" {
		r.Events.Emit(events.ProxyEnds, events.About{VM: r.Policy.Name, IP: r.Policy.Addr, Port: r.Port, PID: proxy.PID(),
			Why: order.Why, Connections: len(clients)})
	}
	if order.Kill {
		proxy.Kill()
	} else {
		proxy.Stop()
	}
	// Not recorded as a trouble: nothing would ever retry and clear it.
	if err = errors.Join(err, r.Forget(netip.AddrPortFrom(r.Policy.Bind, r.Port), clients)); err != nil {
		r.Events.Emit(events.StillTracked, events.About{VM: r.Policy.Name, IP: r.Policy.Addr, Port: r.Port, Err: err.Error()})
	}
}

// FinishInterval is the time between looks whether a process that finishes has answered all. It is longer where a look takes long, so
// that looks take a third of a CPU at most: the kernel walks through its table of connections, for 3 ms if that has 262,144 places
// (net.ipv4.tcp_ehash_entries, on a machine of 24 GB).
const FinishInterval = 2 * time.Millisecond

// finish waits until a proxy that gets no new connections has answered what it was asked, but not for long after a change. Nothing
// but its length tells a tunnel or a download from a short request. It returns the clients whose connections are still open.
func finish(proxy Proxy, change time.Time) ([]netip.AddrPort, error) {
	over := time.Now().Add(grace(time.Since(change), proxy.Prompt()))
	for last := false; ; {
		began := time.Now()
		clients, err := proxy.Clients()
		look := time.Since(began)
		if err != nil || len(clients) == 0 || last {
			return clients, err
		}
		wait := max(FinishInterval, 2*look)
		if left := time.Until(over) - look; left < wait+look { // the last look is over in time
			wait, last = left, true
		}
		select {
		case <-time.After(wait):
		case <-proxy.Done():
			return nil, nil
		}
	}
}

// grace returns how long requests under way may take after a change that took so long to come into force. Revoked hosts have to be
// out of reach soon after the change, tunnels included. An HTTPS request takes 45 ms even where the network takes none, and a tunnel ends
// within 100 ms of the change. If the change took long, the machine is slow now, and so is the request.
//
// A proxy is prompt if what it sends never waits for an acknowledgement. A request then takes 2 ms, and a tunnel ends within 40 ms of
// the change. A change usually takes 17 to 23 ms. Beyond that the time grows fast to what it is for other proxies.
func grace(took time.Duration, prompt bool) time.Duration {
	const (
		all, least                    = 86 * time.Millisecond, 50 * time.Millisecond
		promptAll, promptLeast, usual = 34 * time.Millisecond, 8 * time.Millisecond, 23 * time.Millisecond
		most                          = 250 * time.Millisecond
		growth                        = 6
	)
	enough := max(all-took, least, min(took, most))
	if prompt {
		return min(enough, max(promptAll-took, promptLeast, growth*(took-usual)))
	}
	return enough
}
