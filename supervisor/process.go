package supervisor

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"vifproxy/internal/agenda"
	"vifproxy/internal/backoff"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
	proc "vifproxy/tinyproxy/process"
)

// retiredInterval is how often the loop looks at retired processes.
const retiredInterval = time.Second

// lifeMin is how long the daemon runs at least before it ends so that systemd makes the runtime directory again. So a program that
// keeps removing the directory does not cut all AppVMs off.
const lifeMin = 10 * time.Second

// portTriesMax is how many ports in a row that another process has are passed over at once. If Landlock knows no ports, a proxy that
// its AppVM has taken over can listen on as many as it has descriptors.
const portTriesMax = 8

// A process is one generation, with what it takes to end it.
type process struct {
	plan.Generation
	vm            *appVM
	proxy         proxies.Proxy // nil until it is ready
	askedAt       time.Time     // when the loop first heard of the change that it is for
	startedAt     time.Time
	readyAt       time.Time
	published     bool                    // the files under its AppVM's name describe it
	publishFailed bool                    // and an event says that they cannot
	cut           *atomic.Int64           // connections of its AppVM that its end has cut
	stop          context.CancelCauseFunc // with a proxies.Order
}

// start begins a generation. Letters say that its proxy is ready, and that it has ended or never came up.
func (l *loop) start(p *policy.Policy, now time.Time) {
	vm := l.vms[p.Addr]
	if vm == nil {
		vm = &appVM{addr: p.Addr, failures: backoff.Failures{}}
		l.vms[p.Addr] = vm
	}
	port, err := l.ports.Take()
	if err != nil {
		l.failed(events.ProxyFails, vm, p, now, err, 0, 0)
		return
	}
	l.lastID++
	ctx, stop := context.WithCancelCause(context.Background())
	q := &process{
		Generation: plan.Generation{ID: l.lastID, Policy: p, Port: port},
		vm:         vm, askedAt: l.heardAt, startedAt: now, cut: new(atomic.Int64), stop: stop,
	}
	vm.processes = append(vm.processes, q)
	l.running.Add(1)
	go l.runner(q).Start(ctx)
}

// runner returns what brings a process up and ends it, beside the loop.
func (l *loop) runner(p *process) proxies.Runner {
	mail, gone := l.mail, l.running.Done
	return proxies.Runner{
		Policy: p.Policy, Port: p.Port, Starter: l.Proxies, Forget: l.Connections.Forget, Events: l.Events, Cut: p.cut,
		CameUp: func(proxy proxies.Proxy) { mail.Post(func(l *loop) { l.cameUp(p, proxy) }) },
		Ended: func(err error) {
			mail.Post(func(l *loop) { l.ended(p, err) })
			gone()
		},
	}
}

// end ends a generation, whatever it is doing. why is for the event; "" if that has been emitted.
func (p *process) end(how plan.Ending, why string) {
	p.Dying = true
	o := proxies.Order{Kill: how != plan.Gently, Why: why}
	if how == plan.Soon { // so there is another one, which serves
		o.Revoked = p.vm.current.askedAt
	}
	p.stop(o)
}

// cameUp takes in that a proxy listens.
func (l *loop) cameUp(p *process, proxy proxies.Proxy) {
	l.justUp = append(l.justUp, p.vm.addr)
	p.proxy, p.Socket, p.Ready, p.readyAt = proxy, proxy.Socket(), true, time.Now()
	p.vm.taken = 0
	if !p.Dying {
		if (!l.isNew(p.vm.addr) || !l.stale(p.readyAt, p.vm.addr)) && !p.Policy.Learns() {
			p.vm.good.Came(p.Policy)
		}
		if f, had := p.vm.failures[p.Policy.Key()]; had {
			// Keep the failure count: a process that starts and dies at once has proved nothing. Failure.Next clears it after
			// the proxy has served for a while.
			p.vm.failures[p.Policy.Key()] = backoff.Failure{Count: f.Count}
		}
	}
	l.Events.Emit(events.ProxyListens, events.About{
		VM: p.Policy.Name, IP: p.vm.addr, Port: p.Port, PID: p.pid(),
		MS: events.CeilMS(p.readyAt.Sub(p.startedAt)),
	})
}

// pid returns 0 while the process is starting.
func (p *process) pid() int {
	if p.proxy == nil {
		return 0
	}
	return p.proxy.PID()
}

// ended takes in that a proxy has ended, or never came up.
func (l *loop) ended(p *process, err error) {
	l.changed = true
	vm := p.vm
	vm.processes = slices.DeleteFunc(vm.processes, func(q *process) bool { return q == p })
	l.freed = append(l.freed, p.Port)
	for _, w := range l.waiters {
		if w.isFor(vm.addr) {
			w.cut += int(p.cut.Load())
		}
	}
	if !l.named(p.Policy.Name) {
		l.Proxies.Forget(p.Policy.Name)
	}
	if vm.current == p {
		vm.current = nil
	}
	if p.Dying {
		return
	}
	now := time.Now()
	if !p.Ready {
		if errors.As(err, new(proxies.TakenPort)) && vm.taken < portTriesMax { // the plan starts it at the next port
			vm.taken++
			l.Events.Emit(events.ProxyFails, events.About{
				VM: p.Policy.Name, IP: vm.addr, Port: p.Port, RetryMS: events.CeilMS(time.Millisecond), Err: err.Error(),
			})
			return
		}
		vm.taken = 0
		kind := events.ProxyFails
		if proxies.IsBad(err) {
			kind = events.RulesRefused
		}
		l.failed(kind, vm, p.Policy, now, err, 0, 0)
		if l.Systemd.MakesFiles && errors.Is(err, proc.ErrRemoved) && now.Sub(l.Setup.Started) >= lifeMin {
			l.gaveUp = err
		}
		return
	}
	if p.Retired.IsZero() {
		vm.restarts++
	}
	l.failed(events.ProxyDied, vm, p.Policy, now, err, now.Sub(p.readyAt), p.Clients)
}

// checkListeners looks whether proxies still listen where bindings lead, or may lead again. A proxy that does not counts as dead, and so
// does one whose port belongs to another process.
func (l *loop) checkListeners(now time.Time) {
	at := time.Now()
	listeners, err := l.Read.Listeners()
	l.heardListeners(listeners, err, proxies.Proxy.Listens, at, now)
}

// heardListeners takes in which sockets have listened since a time, as far as listens looks. They say nothing of processes that were found
// to listen after that.
func (l *loop) heardListeners(listeners sockdiag.Listeners, err error, listens func(proxies.Proxy, sockdiag.Listeners) error, at, now time.Time) {
	if retry := l.troubles.Note(l.Events, now, "sockets", err); err != nil {
		l.agenda.By(agenda.Check, retry)
		return // nothing is known, so nothing changes
	}
	for _, vm := range l.vms {
		for _, p := range vm.processes { // a retired one may serve again
			if !p.rests() || p.LostPort || p.readyAt.After(at) {
				continue
			}
			if err := listens(p.proxy, listeners); err != nil {
				p.LostPort = true
				vm.restarts++
				l.failed(events.ProxyDied, vm, p.Policy, now, err, now.Sub(p.readyAt), 0)
			}
		}
	}
	l.lookForHeld(listeners, now)
}

// failed notes that a process did not come up or did not stay up. Another failure for the same reason is not an event. connections is
// how many ended with the process; 0 if that is not known.
func (l *loop) failed(kind events.Kind, vm *appVM, p *policy.Policy, now time.Time, err error, served time.Duration,
	connections int) {
	before := vm.failures[p.Key()]
	f := before.Next(now, p.Key(), err, kind == events.RulesRefused, served)
	vm.failures[p.Key()] = f
	l.changed = true
	l.mail.Wake(mailbox.Mail)
	if kind == events.ProxyDied || before.Err == nil || before.Err.Error() != err.Error() {
		l.Events.Emit(kind, events.About{
			VM: p.Name, IP: p.Addr, RetryMS: events.CeilMS(f.Retry.Sub(now)), Err: err.Error(), Connections: connections,
		})
	}
}

// rests reports whether a process is neither starting nor ending.
func (p *process) rests() bool { return p.Ready && !p.Dying }

// pollRetired looks whether retired processes still have clients. If an AppVM has as many as it may have, the loop looks at the serving
// one too: that may be about to retire, and the plan has to know which serves fewest.
func (l *loop) pollRetired(now time.Time) {
	for _, vm := range l.vms {
		full := len(vm.processes) > l.Limits.Generations
		for _, p := range vm.processes {
			retired := !p.Retired.IsZero()
			if !p.rests() || !retired && !full {
				continue
			}
			if clients, err := p.proxy.Clients(); err == nil { // otherwise it stays as last known
				p.Idle, p.Clients = retired && len(clients) == 0, len(clients)
			}
			if retired {
				l.agenda.At(agenda.Retired, now.Add(retiredInterval))
			}
		}
	}
}

// process returns a generation, or nil if it has ended since.
func (l *loop) process(id int) *process {
	for _, vm := range l.vms {
		if i := slices.IndexFunc(vm.processes, func(p *process) bool { return p.ID == id }); i >= 0 {
			return vm.processes[i]
		}
	}
	return nil
}
