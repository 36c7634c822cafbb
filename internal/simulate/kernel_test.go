package simulate_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sockdiag"
	"vifproxy/tinyproxy"
	"vifproxy/tinyproxy/process"
)

// A kernel is the firewall as one life of the daemon writes it.
type kernel struct {
	firewall.Pinner
	m    *machine
	life *life
	busy bool
}

func (k *kernel) String() string { return "simulated" }

// Sync implements firewall.Backend.
func (k *kernel) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	m := k.m
	m.mu.Lock()
	if k.busy {
		m.violated("the firewall is called concurrently")
	}
	k.busy = true
	if !k.life.dead {
		m.pending, m.wanted = &want, &want
		m.cutOff = m.cutOffBy(k.life, want)
		for _, b := range want.Bindings {
			if !b.Local() && m.procs[b.To.Port()] == nil && m.knownDead[b.To.Port()] {
				m.violated("%v is written, and the daemon knows that the process has ended", b)
			}
			if !b.Local() && m.starting[b.To.Port()] {
				m.violated("%v is written, and nobody listens there yet", b)
			}
		}
	}
	m.mu.Unlock()
	defer m.read(func() {
		k.busy = false
		if m.pending == &want {
			m.pending = nil
		}
	})
	var shut error
	err = m.await(ctx, k.life, what{kind: "write"}, 0, 50*time.Microsecond, m.slow(firewallSlow, 4*time.Millisecond, 11*time.Second), func(e *effect) {
		switch {
		case m.fails(firewallUnfenced):
			e.err = fmt.Errorf("%w: %w", firewall.ErrUnfenced, errNot)
			m.unfence()
			return
		case m.fails(firewallFails), m.fails(firewallMoody) && m.chance(what{kind: "mood"}, 3) == 0:
			e.err = errNot
			if m.seed%2 == 1 && m.chance(what{kind: "half written"}, 2) == 0 { // what goes has gone, and what comes has not come; nftables writes all or nothing
				m.cut(k.life)
				m.kernel.Bindings = slices.DeleteFunc(slices.Clone(m.kernel.Bindings), func(b firewall.Binding) bool { return !slices.Contains(want.Bindings, b) })
				m.did("half written")
			}
			return
		case m.fails(firewallShut):
			shut = fmt.Errorf("%w: %w", firewall.ErrShut, errNot)
		}
		writes = k.hold(want)
	})
	if err != nil {
		m.read(func() {
			if m.fwFailed = !errors.Is(err, context.Canceled); m.fwFailed {
				m.failed = time.Now()
				m.mustDie(want)
			}
			if errors.Is(err, firewall.ErrUnfenced) && k.life.unfenced.IsZero() {
				k.life.unfenced = time.Now()
			}
		})
		return 0, err
	}
	m.read(func() { m.fwFailed, k.life.unfenced = false, time.Time{} })
	inForce()
	err = m.await(ctx, k.life, what{kind: "write on"}, 0, 20*time.Microsecond, m.slow(firewallSlow, 20*time.Millisecond, 3*time.Second), func(*effect) { m.doors = nil })
	if err == nil {
		err = shut
	}
	if errors.Is(err, context.Canceled) {
		m.read(func() { m.sometimes("the rest of a write is put off") })
	}
	return writes, err
}

// hold makes the kernel hold a state.
func (k *kernel) hold(want firewall.State) (writes int) {
	m := k.m
	m.cut(k.life)
	seen := map[string]bool{}
	for _, b := range want.Bindings {
		key := b.Vif + b.Addr.String()
		if seen[key] {
			m.violated("two bindings of %v on %s", b.Addr, b.Vif)
		}
		seen[key] = true
		p := m.procs[b.To.Port()]
		if p != nil {
			if p.bound.IsZero() {
				p.bound = time.Now()
			}
		}
		if p == nil {
			m.sometimes("a write pending while its process dies")
		} else if !b.Local() && p.vm.addr != b.Addr {
			m.violated("%v is bound to the proxy of %v", b, p.vm.addr)
		}
		if !slices.Contains(m.kernel.Bindings, b) {
			writes++
			m.did("bind %v", b)
		}
	}
	for _, b := range m.kernel.Bindings {
		if !slices.Contains(want.Bindings, b) {
			writes++
			m.doors = append(m.doors, b)
			m.did("unbind %v", b)
		}
	}
	for _, p := range want.Fence.Proxies {
		key := fmt.Sprint("uid ", p.UID)
		if seen[key] {
			m.violated("two entries of uid %d in the fence", p.UID)
		}
		seen[key] = true
	}
	if !m.fenced || !want.Equal(*m.kernel) {
		writes++
	}
	m.kernel, m.fenced, m.stale[2], k.life.wrote = &want, true, false, true
	if !m.forever && time.Now().Before(m.tearing) {
		m.at(time.Millisecond+time.Duration(m.chance(what{kind: "tear"}, int64(15*time.Millisecond))), "torn", func() {
			m.unfence()
			m.event(2, netwatch0)
		})
	}
	for _, b := range want.Bindings {
		if p := m.procs[b.To.Port()]; p != nil && !b.Local() && p.vm.addr == b.Addr && p.life == m.life {
			p.vm.wasBound(p)
		}
	}
	return writes
}

// unfence has another program remove our tables.
func (m *machine) unfence() {
	if m.fenced {
		m.unfenced, m.amidst = time.Now(), m.pending != nil
	}
	m.kernel, m.doors, m.fenced = &firewall.State{}, nil, false
}

// Refused implements firewall.Backend.
func (k *kernel) Refused(context.Context) (map[uint32]uint64, error) {
	k.m.mu.Lock()
	defer k.m.mu.Unlock()
	if k.busy {
		k.m.violated("the firewall is asked while it is written")
	}
	return map[uint32]uint64{}, k.m.failing(firewallFails)
}

// Remove implements firewall.Backend.
func (k *kernel) Remove(ctx context.Context) error {
	return k.m.await(ctx, k.life, what{kind: "remove"}, 0, time.Millisecond, 20*time.Millisecond, func(*effect) {
		k.m.kernel, k.m.fenced = &firewall.State{}, false
		k.m.unfenced = time.Now()
		k.m.did("firewall removed")
	})
}

// A starter starts proxies for one life of the daemon.
type starter struct {
	m *machine
	l *life
}

func (s starter) Forget(string) {}

// Start implements proxies.Starter.
func (s starter) Start(ctx context.Context, p *policy.Policy, port uint16) (proxies.Proxy, error) {
	m := s.m
	var q *proc
	var connection int
	began := time.Now()
	m.read(func() {
		connection = m.of(p.Addr).known
		if !s.l.dead {
			if told := s.l.told; !told.IsZero() && told.Before(began) {
				m.violated("a process of %v starts, and the daemon was told to end %v ago", p.Addr, time.Since(told))
			}
			m.mayStart(p, port)
			m.starting[port] = true
		}
	})
	err := m.await(ctx, s.l, what{"start", p.Addr}, port, time.Millisecond, m.slow(startSlow, 15*time.Millisecond, 9*time.Second), func(e *effect) {
		vm := m.of(p.Addr)
		allowed := hostsOf(p)
		switch {
		case m.fails(startRemoved):
			e.err = process.ErrRemoved
			s.l.mayEnd = true
		case m.fails(startTaken) && port%6 != 0: // another program has five ports of six
			e.err = proxies.TakenPort{Err: errNot}
			m.sometimes("another process has the port")
		case m.fails(startFails):
			e.err = errNot
		case allowed&badLine != 0:
			e.err = proxies.BadPolicy{Err: errors.New("tinyproxy refuses the expression")}
		}
		if e.err != nil {
			if !proxies.IsBad(e.err) {
				m.forgetUp(vm)
			}
			if !m.fails(startTaken) {
				m.quiet = false
			}
			m.did("start %v :%d fails: %v", p.Addr, port, e.err)
			return
		}
		m.serial++
		q = &proc{m: m, life: s.l, vm: vm, began: began, connection: connection, tmpl: templateOf(p), hosts: allowed, learns: p.Learns(), bind: p.Bind, port: port, pid: m.serial, done: make(chan struct{}), clients: 1}
		m.procs[port] = q
		delete(m.died, port)
		delete(m.knownDead, port)
		if other, used := m.served[port]; used && other != p.Addr {
			m.sometimes("a port freed and taken")
		}
		m.served[port] = p.Addr
		m.did("%v listens at %d: %v", p.Addr, port, allowed)
	})
	m.read(func() { delete(m.starting, port) })
	if err != nil {
		return nil, err
	}
	return q, nil
}

// mayStart looks whether a process may start now.
func (m *machine) mayStart(p *policy.Policy, port uint16) {
	m.did("start %v :%d", p.Addr, port)
	if since := m.life.unfenced; !since.IsZero() && time.Since(since) > time.Second {
		m.violated("a process of %v starts, and the daemon has known for %v that the fence does not stand", p.Addr, time.Since(since))
	}
	if q := m.procs[port]; q != nil {
		m.violated("the port %d of a process of %v is given to %v", port, q.vm.addr, p.Addr)
	}
	for _, b := range m.doors {
		if b.To.Port() == port {
			m.violated("port %d is given to %v, and the rest of a write that closes it to %v is put off", port, p.Addr, b.Addr)
		}
	}
	for _, state := range []*firewall.State{m.kernel, m.pending} {
		if state == nil {
			continue
		}
		for _, b := range state.Bindings {
			if b.To.Port() == port {
				m.violated("port %d is given to %v while %v", port, p.Addr, b)
			}
		}
	}
	if m.of(p.Addr).stopped == yes {
		m.violated("%v starts, and is stopped", p.Addr)
	}
}

// Try implements proxies.Starter.
func (s starter) Try(ctx context.Context, p *policy.Policy, uid uint32, port uint16, q tinyproxy.Request) (proxies.Trial, error) {
	err := s.m.await(ctx, s.l, what{"try", p.Addr}, port, time.Millisecond, 15*time.Millisecond, func(e *effect) {
		if e.err = s.m.failing(startFails); e.err == nil {
			s.m.sometimes("a trial")
		}
	})
	return trial{s, p.Addr, port}, err
}

type trial struct {
	starter
	vm   netip.Addr
	port uint16
}

func (t trial) Ask(ctx context.Context, from netip.Addr) (tinyproxy.Outcome, error) {
	err := t.m.await(ctx, t.l, what{"ask", t.vm}, t.port, time.Millisecond, 300*time.Millisecond, func(e *effect) {
		if !slices.ContainsFunc(t.m.kernel.Bindings, func(b firewall.Binding) bool { return b.Local() && b.Addr == from && b.To.Port() == t.port }) && t.m.fenced {
			t.m.sometimes("a trial loses its binding")
		}
	})
	return tinyproxy.Outcome{Stage: tinyproxy.Connected, Status: 200}, err
}

func (t trial) Kill() {}

func (p *proc) PID() int              { return p.pid }
func (p *proc) Done() <-chan struct{} { return p.done }
func (p *proc) Socket() uint64        { return uint64(p.pid) }
func (p *proc) Prompt() bool          { return p.pid%2 == 0 }

func (p *proc) WhenDone(f func()) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.m.procs[p.port] != p {
		go f()
		return
	}
	p.told = append(p.told, f)
}

func (p *proc) Err() error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.err
}

func (p *proc) Clients() (all []netip.AddrPort, err error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for i := range p.clients {
		all = append(all, netip.AddrPortFrom(p.vm.addr, uint16(40000+i)))
	}
	if p.m.procs[p.port] != p {
		return nil, nil
	}
	return all, p.m.failing(looking)
}

func (p *proc) Held(sockdiag.Listeners) ([]netip.AddrPort, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.full {
		return []netip.AddrPort{netip.AddrPortFrom(p.vm.addr, 40000)}, nil
	}
	return nil, nil
}

func (p *proc) HasPort(all sockdiag.Listeners) error { return p.Listens(all) }

func (p *proc) Listens(sockdiag.Listeners) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if p.lost {
		return errors.New("its port is not its own")
	}
	return nil
}

// Current is process.Launcher.SetCurrent: of two calls the later one counts, whichever takes longer.
func (p *proc) Current() error {
	var ended bool
	p.m.read(func() {
		if ended = p.m.procs[p.port] != p; !ended {
			p.m.current[p.vm.addr] = p.port
		}
	})
	if ended {
		return errEnded
	}
	return p.m.await(context.Background(), p.life, what{"publish", p.vm.addr}, p.port, 100*time.Microsecond, p.m.slow(publishing, 3*time.Millisecond, 900*time.Millisecond), func(e *effect) {
		if e.err = p.m.failing(publishing); e.err == nil {
			p.m.shown[p.vm.addr] = p.m.current[p.vm.addr]
		}
	})
}

func (p *proc) Stop() { p.ends("stop", 200*time.Millisecond) }
func (p *proc) Kill() { p.ends("kill", 3*time.Millisecond) }

func (p *proc) ends(how string, usually time.Duration) {
	p.m.read(func() {
		p.m.mayEnd(p)
		p.ordered = true
	})
	p.m.await(context.Background(), p.life, what{how, p.vm.addr}, p.port, 100*time.Microsecond, p.m.slow(endSlow, usually, 2*time.Second), func(*effect) {
		p.m.end(p, how, nil)
	})
}

// A cut is a binding that a write takes away, and the process to which it leads.
type cut struct {
	firewall.Binding
	p *proc
}

// cutOffBy returns the bindings that a write takes away from AppVMs, although these are still to be served and their processes run. It
// is sure only of AppVMs that were served as their lists say.
func (m *machine) cutOffBy(l *life, want firewall.State) (all []cut) {
	if !l.told.IsZero() || l.mayEnd || !m.fenced || !l.unfenced.IsZero() || time.Since(m.saidUnfenced) < 10*time.Second {
		return nil
	}
	for _, b := range m.kernel.Bindings {
		p := m.procs[b.To.Port()]
		if b.Local() || p == nil || p.m.of(b.Addr) != p.vm || slices.ContainsFunc(want.Bindings, func(w firewall.Binding) bool { return w.Vif == b.Vif && w.Addr == b.Addr }) {
			continue
		}
		if c := (cut{b, p}); m.isSteady(c) {
			all = append(all, c)
		}
	}
	return all
}

// isSteady reports whether nothing asks for the end of a binding: the AppVM is there, and its list has not taken away what the process
// permits.
func (m *machine) isSteady(c cut) bool {
	vm := c.p.vm
	return m.procs[c.p.port] == c.p && !c.p.lost && !c.p.ordered && !c.p.learns && vm.steady && vm.stopped == no &&
		slices.ContainsFunc(vm.vifs, func(domid int) bool { return c.Vif == vifOf(domid) }) &&
		time.Since(c.p.bound) > 50*time.Millisecond && // else its AppVM may have just come, and waits again if rules are to be read
		!m.ceiling.any(m.calm, func(most hosts) bool { return c.p.hosts&^most != 0 }) &&
		!vm.at.any(m.calm, func(at netip.Addr) bool { return at != c.p.bind }) &&
		!vm.demands.any(m.calm, func(h hosts) bool { return (c.p.hosts|aList)&^h != 0 }) &&
		!vm.learns.any(m.calm, func(h hosts) bool { return h != 0 }) &&
		!m.tmpls.any(m.calm, func(t int) bool { return t != c.p.tmpl && t != anyTemplate && t != brokenTemplate })
}

// cut notes that the kernel does what a write wants.
func (m *machine) cut(l *life) {
	for _, c := range m.cutOff {
		if m.isSteady(c) && l.told.IsZero() && time.Since(m.saidUnfenced) > 10*time.Second {
			m.violated("%v is cut off from its process at %d, which permits %v and runs, and nothing asks for that", c.Binding, c.p.port, c.p.hosts)
		}
	}
	m.cutOff = nil
}

// mustDie follows a write that has failed. Where it would have led an AppVM to another process because the rules of its process permit too
// much, the daemon kills that at once: new connections still come to it.
func (m *machine) mustDie(want firewall.State) {
	for _, b := range m.kernel.Bindings {
		p := m.procs[b.To.Port()]
		i := slices.IndexFunc(want.Bindings, func(w firewall.Binding) bool { return w.Vif == b.Vif && w.Addr == b.Addr })
		if b.Local() || p == nil || i < 0 {
			continue
		}
		q := m.procs[want.Bindings[i].To.Port()]
		if q != nil && q != p && q.vm == p.vm && !q.learns && !p.learns && p.hosts&^q.hosts != 0 && !p.ordered && p.mustDie.IsZero() {
			p.mustDie = time.Now()
		}
	}
}

// mayEnd looks whether the daemon may end a process now: nothing leads to it any more, unless the firewall cannot be written, or all
// processes end because the fence does not stand.
func (m *machine) mayEnd(p *proc) {
	if !p.mustDie.IsZero() && !p.ordered && time.Since(p.mustDie) > 0 && !p.life.dead {
		m.violated("the process of %v at %d ends %v after a write failed that was to lead nobody to it any more, and should at once", p.vm.addr, p.port, time.Since(p.mustDie))
	}
	if m.fwFailed && !p.ordered && p.life == m.life {
		m.mayEndBound(p)
	}
	if p.life.dead || m.procs[p.port] != p || m.fwFailed || time.Since(m.tearing) < 10*time.Second || time.Since(m.saidUnfenced) < time.Second || m.isSlow() ||
		slices.ContainsFunc([]trouble{firewallFails, firewallMoody, firewallUnfenced, firewallSlow, chains}, m.fails) {
		return
	}
	for _, b := range m.kernel.Bindings {
		if b.To.Port() == p.port {
			m.violated("the process of %v at %d ends, and %v", p.vm.addr, p.port, b)
		}
	}
}

// mayEndBound looks whether the daemon may end a process that a write was to replace and has not, because it failed: not if all that it
// permits is permitted.
func (m *machine) mayEndBound(p *proc) {
	if m.procs[p.port] != p || !m.fenced || !p.life.told.IsZero() || !p.life.unfenced.IsZero() || time.Since(m.saidUnfenced) < 10*time.Second || p.lost || p.learns || p.vm.stopped != no {
		return
	}
	for _, b := range m.kernel.Bindings {
		i := slices.IndexFunc(m.wanted.Bindings, func(w firewall.Binding) bool { return w.Vif == b.Vif && w.Addr == b.Addr })
		if b.To.Port() != p.port || b.Local() || i < 0 || !slices.ContainsFunc(p.vm.vifs, func(domid int) bool { return vifOf(domid) == b.Vif }) {
			continue
		}
		q := m.procs[m.wanted.Bindings[i].To.Port()]
		if q != nil && q != p && q.vm == p.vm && !q.learns && p.hosts&^q.hosts == 0 && p.tmpl == q.tmpl && p.bind == q.bind {
			m.violated("the process of %v at %d ends because it has been replaced, and %v, because the write of that failed", p.vm.addr, p.port, b)
		}
	}
}

// end ends a process.
func (m *machine) end(p *proc, how string, err error) {
	if m.procs[p.port] != p {
		return
	}
	delete(m.procs, p.port)
	if m.current[p.vm.addr] == p.port {
		delete(m.current, p.vm.addr)
		delete(m.shown, p.vm.addr)
	}
	m.died[p.port], p.vm.deaths[p.hosts] = time.Now(), time.Now()
	m.did("%s %v :%d", how, p.vm.addr, p.port)
	p.err = err
	close(p.done)
	for _, f := range p.told {
		go f()
	}
}
