package supervisor

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// startBound is how long a proxy may take until it listens. The usual is a few milliseconds; a machine that boots
// twenty VMs may need a second or two.
const startBound = 10 * time.Second

// appVM is what the loop remembers of one AppVM.
type appVM struct {
	addr      netip.Addr
	processes []*process // oldest first
	good      *Policy
	failures  map[string]Failure
	restarts  int
	current   *process // the one that the bindings point at
}

// process is one generation with what it takes to end it.
type process struct {
	Generation
	vm      *appVM
	proxy   Proxy // nil until it is ready
	started time.Time
	ready   time.Time
	shown   bool      // the files under its AppVM's name tell of it
	end     chan bool // capacity 1: true to kill, false to stop
	abandon context.CancelFunc
}

// actual is the AppVMs as plan sees them.
func (s *Supervisor) actual() []*Actual {
	all := make([]*Actual, 0, len(s.vms))
	for _, vm := range s.vms {
		a := &Actual{Addr: vm.addr, Good: vm.good, Failures: vm.failures}
		for _, p := range vm.processes {
			a.Generations = append(a.Generations, p.Generation)
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *Actual) int { return a.Addr.Compare(b.Addr) })
	return all
}

// start begins a generation. The goroutine it makes is the only one that touches the process from then on, and
// reports by mail that the proxy is ready, that it has ended, or that it never came up.
func (s *Supervisor) start(policy *Policy, now time.Time) {
	vm := s.vms[policy.Addr]
	if vm == nil {
		vm = &appVM{addr: policy.Addr, failures: map[string]Failure{}}
		s.vms[policy.Addr] = vm
	}
	port, err := s.ports.take()
	if err != nil {
		s.failed(vm, policy, now, err, false, 0)
		return
	}
	s.lastID++
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{
		Generation: Generation{ID: s.lastID, Policy: policy, Port: port},
		vm:         vm, started: now, end: make(chan bool, 1), abandon: cancel,
	}
	vm.processes = append(vm.processes, p)
	s.running.Go(func() {
		defer cancel()
		s.run(ctx, p)
	})
}

func (s *Supervisor) run(ctx context.Context, p *process) {
	policy, port := p.Policy, p.Port
	proxy, err := s.Proxies.Start(ctx, policy, port)
	if err != nil {
		s.post(func() { s.ended(p, err) })
		return
	}
	s.post(func() { s.cameUp(p, proxy) })
	select {
	case <-proxy.Done():
	case kill := <-p.end:
		if kill {
			proxy.Kill()
		} else {
			proxy.Stop()
		}
	}
	s.post(func() { s.ended(p, proxy.Err()) })
}

// tell ends a generation, whatever it is doing.
func (p *process) tell(kill bool) {
	p.Dying = true
	p.abandon()
	p.end <- kill
}

// cameUp is the news that a proxy listens.
func (s *Supervisor) cameUp(p *process, proxy Proxy) {
	s.changed = true
	p.proxy, p.Ready, p.ready = proxy, true, time.Now()
	if !p.Dying {
		p.vm.good = p.Policy
		delete(p.vm.failures, p.Policy.key)
	}
	s.Log.Info("proxy listens", "vm", p.Policy.Name, "ip", p.vm.addr, "port", p.Port, "pid", proxy.PID(),
		"ms", p.ready.Sub(p.started).Milliseconds())
}

// ended is the news that a proxy has ended, or never came up.
func (s *Supervisor) ended(p *process, err error) {
	s.changed = true
	vm := p.vm
	vm.processes = slices.DeleteFunc(vm.processes, func(q *process) bool { return q == p })
	s.freed = append(s.freed, p.Port)
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
		s.failed(vm, p.Policy, now, err, isBad(err), 0)
		return
	}
	if p.Retired.IsZero() {
		vm.restarts++
	}
	s.failed(vm, p.Policy, now, err, false, now.Sub(p.ready))
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

func (s *Supervisor) failed(vm *appVM, policy *Policy, now time.Time, err error, bad bool, served time.Duration) {
	f := vm.failures[policy.key].next(now, err, bad, served)
	vm.failures[policy.key] = f
	s.changed = true
	s.Wake(Mail)
	s.Log.Warn("proxy does not run", "vm", policy.Name, "ip", policy.Addr, "err", err,
		"retry_ms", f.Retry.Sub(now).Milliseconds())
}

// prune forgets what belongs to AppVMs that have gone, and failures of policies that nobody wants any more.
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
		if vm.good != nil {
			vm.good = vm.good.only(s.inputs.Temporary[grantee{vm.good.Name, addr}])
		}
		for key := range vm.failures {
			if !d.connected() || !(d.Policy != nil && d.Policy.key == key || vm.good != nil && vm.good.at(d.Bind).key == key) {
				delete(vm.failures, key)
			}
		}
		if !d.connected() && len(vm.processes) == 0 {
			delete(s.vms, addr)
		}
	}
	for addr := range s.inputs.Held {
		if want[addr] == nil {
			delete(s.inputs.Held, addr)
		}
	}
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

// atRest tells whether no process is on its way up or down.
func (s *Supervisor) atRest() bool {
	for _, vm := range s.vms {
		for _, p := range vm.processes {
			if !p.Ready || p.Dying {
				return false
			}
		}
	}
	return true
}

// pollRetired looks whether retired processes still serve anybody.
func (s *Supervisor) pollRetired(now time.Time) {
	for _, vm := range s.vms {
		for _, p := range vm.processes {
			if p.Retired.IsZero() || p.Dying {
				continue
			}
			clients, err := p.proxy.Clients()
			p.Idle = err == nil && clients == 0
			s.due.drain = now.Add(drainPoll)
		}
	}
}
