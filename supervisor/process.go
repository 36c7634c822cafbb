package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/sockdiag"
	proc "vifproxy/tinyproxy/process"
)

// startBound is how long a proxy may take until it listens. The usual is a few milliseconds; a machine that boots
// twenty VMs may need a second or two.
const startBound = 10 * time.Second

// restartGap is how long the daemon has to have run until it ends so that systemd makes the runtime directory again: somebody
// who keeps removing it does not keep all AppVMs from being served.
const restartGap = 10 * time.Second

// portTries is how many ports in a row that somebody else has are passed over at once. Where Landlock knows no ports, a
// proxy in an AppVM's hands can listen on as many as it has descriptors.
const portTries = 8

// finishPoll is how often a process that is to end soon is asked whether it has answered all.
const finishPoll = 2 * time.Millisecond

// appVM is what the loop remembers of one AppVM.
type appVM struct {
	addr      netip.Addr
	processes []*process // oldest first
	good      *Policy
	failures  map[string]Failure
	restarts  int
	taken     int      // ports in a row that somebody else had
	current   *process // the one that the bindings point at
	showing   bool     // the files under its name are being written
}

// process is one generation with what it takes to end it.
type process struct {
	Generation
	vm      *appVM
	proxy   Proxy     // nil until it is ready
	asked   time.Time // when the change that it is for was first heard of
	started time.Time
	ready   time.Time
	shown   bool         // the files under its AppVM's name tell of it
	hidden  bool         // and it was told that they cannot
	order   order        // not to be touched any more once abandon was called
	cut     atomic.Int64 // connections of its AppVM
	abandon context.CancelFunc
}

// order is how a process is told to end.
type order struct {
	Ending
	heard time.Time // of the change that makes it end Soon
	why   string    // to be told when it is carried out; "" if that has been told
}

// actual is the AppVMs as plan sees them.
func (s *Supervisor) actual() []*Actual {
	all := make([]*Actual, 0, len(s.vms))
	for _, vm := range s.vms {
		all = append(all, vm.actual())
	}
	slices.SortFunc(all, func(a, b *Actual) int { return a.Addr.Compare(b.Addr) })
	return all
}

func (vm *appVM) actual() *Actual {
	a := &Actual{Addr: vm.addr, Good: vm.good, Failures: vm.failures}
	for _, p := range vm.processes {
		a.Generations = append(a.Generations, p.Generation)
	}
	return a
}

// start begins a generation. That its proxy is ready, and that it has ended or never came up, comes by mail.
func (s *Supervisor) start(policy *Policy, now time.Time) {
	vm := s.vms[policy.Addr]
	if vm == nil {
		vm = &appVM{addr: policy.Addr, failures: map[string]Failure{}}
		s.vms[policy.Addr] = vm
	}
	port, err := s.ports.take()
	if err != nil {
		s.failed(events.ProxyFails, vm, policy, now, err, 0)
		return
	}
	s.lastID++
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{
		Generation: Generation{ID: s.lastID, Policy: policy, Port: port},
		vm:         vm, asked: s.heard, started: now, abandon: cancel,
	}
	vm.processes = append(vm.processes, p)
	s.running.Add(1)
	go s.run(ctx, p)
}

// run brings a process up. It does not wait for its end, or for the order to end it, since a goroutine for each process
// would be a stack for each.
func (s *Supervisor) run(ctx context.Context, p *process) {
	gone := func(err error) {
		s.post(func() { s.ended(p, err) })
		s.running.Done()
	}
	proxy, err := s.Proxies.Start(ctx, p.Policy, p.Port)
	if err != nil {
		gone(err)
		return
	}
	s.post(func() { s.cameUp(p, proxy) })
	proxy.WhenDone(func() { gone(proxy.Err()) })
	context.AfterFunc(ctx, func() { s.carryOut(p, proxy) }) // also if it was abandoned while it came up
}

// carryOut ends a process as ordered. Clients whose vif has gone cannot be told, so that their connections are to be
// forgotten.
func (s *Supervisor) carryOut(p *process, proxy Proxy) {
	if p.order.Ending == Soon {
		finish(proxy, p.order.heard)
	}
	clients, err := proxy.Clients()
	p.cut.Store(int64(len(clients)))
	if p.order.why != "" {
		s.Events.Emit(events.ProxyEnds, events.About{VM: p.Policy.Name, IP: p.Policy.Addr, Port: p.Port, PID: proxy.PID(),
			Why: p.order.why, Connections: len(clients)})
	}
	if p.order.Ending == Gently {
		proxy.Stop()
	} else {
		proxy.Kill()
	}
	// No trouble: there is no second time for it.
	if err = errors.Join(err, s.Forget(netip.AddrPortFrom(p.Policy.Bind, p.Port), clients)); err != nil {
		s.Events.Emit(events.StillTracked, events.About{VM: p.Policy.Name, IP: p.Policy.Addr, Port: p.Port, Err: err.Error()})
	}
}

// finish waits until a proxy that no new connection comes to has answered what it was asked. A tunnel or a download
// would take longer than it may: it is told from a short request by nothing but its length.
func finish(proxy Proxy, heard time.Time) {
	tick := time.NewTicker(finishPoll)
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

// tell ends a generation, whatever it is doing.
func (p *process) tell(how Ending) {
	p.Dying = true
	p.order.Ending = how
	if how == Soon { // so there is another one, which serves
		p.order.heard = p.vm.current.asked
	}
	p.abandon()
}

// cameUp is the news that a proxy listens.
func (s *Supervisor) cameUp(p *process, proxy Proxy) {
	s.up = append(s.up, p.vm.addr)
	p.proxy, p.Ready, p.ready = proxy, true, time.Now()
	p.vm.taken = 0
	if !p.Dying {
		if !s.isNew(p.vm.addr) || !s.stale(p.ready, p.vm.addr) {
			p.vm.good = p.Policy
		}
		if f, had := p.vm.failures[p.Policy.Key()]; had {
			// How often it failed is forgotten when it has served for a while, in next: coming up is no merit of a
			// process that ends right after.
			p.vm.failures[p.Policy.Key()] = Failure{Count: f.Count}
		}
	}
	s.Events.Emit(events.ProxyListens, events.About{
		VM: p.Policy.Name, IP: p.vm.addr, Port: p.Port, PID: p.pid(),
		MS: events.CeilMS(p.ready.Sub(p.started)),
	})
}

// pid is 0 while the process is starting.
func (p *process) pid() int {
	if p.proxy == nil {
		return 0
	}
	return p.proxy.PID()
}

// ended is the news that a proxy has ended, or never came up.
func (s *Supervisor) ended(p *process, err error) {
	s.changed = true
	vm := p.vm
	vm.processes = slices.DeleteFunc(vm.processes, func(q *process) bool { return q == p })
	s.freed = append(s.freed, p.Port)
	for _, w := range s.waiters {
		if w.of == nil || slices.Contains(w.of, vm.addr) {
			w.cut += int(p.cut.Load())
		}
	}
	if !s.named(p.Policy.Name) {
		s.Proxies.Forget(p.Policy.Name)
	}
	if vm.current == p {
		vm.current = nil
	}
	if p.Dying {
		return
	}
	now := time.Now()
	if !p.Ready {
		if errors.As(err, new(takenPort)) && vm.taken < portTries { // the plan starts it at the next one
			vm.taken++
			s.Events.Emit(events.ProxyFails, events.About{
				VM: p.Policy.Name, IP: vm.addr, Port: p.Port, RetryMS: events.CeilMS(time.Millisecond), Err: err.Error(),
			})
			return
		}
		vm.taken = 0
		kind := events.ProxyFails
		if isBad(err) {
			kind = events.RulesRefused
		}
		s.failed(kind, vm, p.Policy, now, err, 0)
		if s.SystemdMakesFiles && errors.Is(err, proc.ErrRemoved) && now.Sub(s.Setup.Started) >= restartGap {
			s.gaveUp = err
		}
		return
	}
	if p.Retired.IsZero() {
		vm.restarts++
	}
	s.failed(events.ProxyDied, vm, p.Policy, now, err, now.Sub(p.ready), p.Clients)
}

// verify looks whether the serving proxies still listen where their bindings lead. One that does not, or whose port
// is somebody else's, counts as one that has died.
func (s *Supervisor) verify(now time.Time) {
	listeners, err := s.ReadListeners()
	s.heardListeners(listeners, err, now)
}

// heardListeners takes in which sockets were found to listen.
func (s *Supervisor) heardListeners(listeners sockdiag.Listeners, err error, now time.Time) {
	if retry := s.troubles.note(s.Events, now, "sockets", err); err != nil {
		s.agenda.by(dueCheck, retry)
		return // nothing is known: it stays what it was
	}
	for _, vm := range s.vms {
		p := vm.current
		if p == nil || p.Dying || p.Deaf {
			continue
		}
		if err := p.proxy.Listens(listeners); err != nil {
			p.Deaf = true
			vm.restarts++
			s.failed(events.ProxyDied, vm, p.Policy, now, err, now.Sub(p.ready))
		}
	}
}

// named tells whether a process runs under an AppVM's name.
func (s *Supervisor) named(name string) bool {
	for _, vm := range s.vms {
		if slices.ContainsFunc(vm.processes, func(p *process) bool { return p.Policy.Name == name }) {
			return true
		}
	}
	return false
}

// failed notes that a process did not come up or did not stay up. Trying again in vain is no event.
// Connections are those that ended with it, if that is known.
func (s *Supervisor) failed(kind events.Kind, vm *appVM, policy *Policy, now time.Time, err error, served time.Duration,
	connections ...int) {
	before := vm.failures[policy.Key()]
	f := before.next(now, err, kind == events.RulesRefused, served)
	vm.failures[policy.Key()] = f
	s.changed = true
	s.Wake(Mail)
	if kind == events.ProxyDied || before.Err == nil || before.Err.Error() != err.Error() {
		about := events.About{
			VM: policy.Name, IP: policy.Addr, RetryMS: events.CeilMS(f.Retry.Sub(now)), Err: err.Error(),
		}
		for _, n := range connections {
			about.Connections += n
		}
		s.Events.Emit(kind, about)
	}
}

// prune forgets what belongs to AppVMs that have gone, failures of policies that nobody wants any more, and last good
// policies that have been followed by another one.
func (s *Supervisor) prune() {
	want := make(map[netip.Addr]*Desired, len(s.want))
	for _, d := range s.want {
		want[d.Addr] = d
	}
	for addr, vm := range s.vms {
		d := want[addr]
		if !d.connected() {
			vm.good = nil
		}
		if d.wanted() && !d.Waits && d.Policy != nil && vm.runs(d.Policy) {
			vm.good = d.Policy // also if it came up long ago, and serves again after rules that were taken back
		}
		if vm.good != nil {
			vm.good = vm.good.Only(s.inputs.Temporary[identity{vm.good.Name, addr}])
		}
		for key := range vm.failures {
			if !d.connected() || !(d.Policy != nil && d.Policy.Key() == key || vm.good != nil && vm.good.At(d.Bind, d.Places).Key() == key) {
				delete(vm.failures, key)
			}
		}
		if !d.connected() && len(vm.processes) == 0 {
			delete(s.vms, addr)
		}
	}
	s.Events.Forget(func(vm netip.Addr) bool { return want[vm] == nil })
	for who := range s.inputs.Temporary {
		if d := want[who.addr]; d == nil || d.Name != who.name {
			delete(s.inputs.Temporary, who)
		}
	}
	for addr := range s.inputs.Restarts {
		if want[addr] == nil {
			delete(s.inputs.Restarts, addr)
		}
	}
}

// runs tells whether a process listens that has a policy.
func (vm *appVM) runs(p *Policy) bool {
	return slices.ContainsFunc(vm.processes, func(q *process) bool {
		return q.Ready && !q.Dying && !q.Deaf && q.Policy.Key() == p.Key()
	})
}

// atRest tells whether no process is on its way up or down.
func (s *Supervisor) atRest() bool {
	for _, vm := range s.vms {
		if vm.beingShown() || slices.ContainsFunc(vm.processes, func(p *process) bool { return !p.rests() }) {
			return false
		}
	}
	return true
}

// starting counts the processes that do not listen yet.
func (s *Supervisor) starting() (n int) {
	for _, vm := range s.vms {
		for _, p := range vm.processes {
			if !p.Ready {
				n++
			}
		}
	}
	return n
}

// rests tells whether a process is neither on its way up nor down.
func (p *process) rests() bool { return p.Ready && !p.Dying }

// pollRetired looks whether retired processes still serve anybody. Where an AppVM has as many as may be, its other one is
// looked at too: it may be about to retire, and who serves fewest is known of all then.
func (s *Supervisor) pollRetired(now time.Time) {
	for _, vm := range s.vms {
		full := len(vm.processes) > s.Limits.Generations
		for _, p := range vm.processes {
			retired := !p.Retired.IsZero()
			if !p.rests() || !retired && !full {
				continue
			}
			if clients, err := p.proxy.Clients(); err == nil { // else as it was last known
				p.Idle, p.Clients = retired && len(clients) == 0, len(clients)
			}
			if retired {
				s.agenda.at(dueRetired, now.Add(drainPoll))
			}
		}
	}
}
