package supervisor

import (
	"context"
	"errors"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// apply does what the plan says, in the order that keeps every binding on a living port of its own proxy: first the
// bindings, and in the same transaction the fence, then the ends. What starts does so meanwhile, as nothing leads to it,
// but only if the fence is known to stand.
//
// When the firewall cannot be written, processes that must not serve any more are ended all the same: a binding to a
// port where nobody listens is closed, a process with revoked rules is open. Their ports stay taken until a
// write succeeds, so that nobody else can be given them.
func (s *Supervisor) apply(p Plan, now time.Time) {
	known := s.holds != nil
	if known {
		s.startAll(p.Start, now)
	}
	inForce := s.bind(p, now)
	if s.guard.unfenced != nil {
		return // all has been ended
	}
	if !known {
		s.startAll(p.Start, now)
	}
	if !inForce {
		for i := range p.End {
			if p.End[i].How == Soon {
				p.End[i].How = Now // for what is new still comes to it
			}
		}
	}
	s.end(p.End)
}

// bind has the firewall hold what the plan says, and tells whether that is in force.
func (s *Supervisor) bind(p Plan, now time.Time) bool {
	s.exits, s.fenced = p.Exits, s.fence(slices.Concat(p.Exits, s.trialExits()), now)
	bindings := s.withTrials(p.Bindings)
	if !s.sync(firewall.State{Bindings: bindings, Guarded: s.ports.taken(), Fence: s.fenced}, now) {
		return false
	}
	s.bound(p, now)
	s.trialsBound(bindings)
	return true
}

func (s *Supervisor) startAll(policies []*Policy, now time.Time) {
	for _, policy := range policies {
		s.start(policy, now)
	}
}

func (s *Supervisor) end(ends []End) {
	for _, end := range ends {
		if q := s.process(end.ID); q != nil {
			if q.proxy == nil { // else it is told when it is known how many connections that cuts
				s.Events.Emit(events.ProxyEnds, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, Why: end.Why})
			} else {
				q.order.why = end.Why
			}
			q.tell(end.How)
		}
	}
}

// write is one write of the firewall.
type write struct {
	state   firewall.State
	putOff  context.CancelFunc // the rest of it, if it has not begun
	late    bool               // it is given up
	inForce chan struct{}
	done    chan struct{}
	writes  int   // once done
	err     error // once done
	known   bool  // to be in force
	same    bool  // nothing else than the last one: it writes only what somebody has undone
	beside  bool  // the loop does not wait for it
	again   bool  // another try follows at once if it fails
}

// sync has the firewall hold state, and tells whether that is in force. The rest of the write, which is to take away what
// nobody needs any more, goes on beside the loop: iptables-legacy takes tens of milliseconds for it. What the firewall was
// made to hold is believed until it is to be checked again: a new process is started without reading all rules before.
// That a port is guarded, or not any more, comes with the next write for another reason: a proxy grants no connection to
// whom it is not bound, guarded or not.
func (s *Supervisor) sync(state firewall.State, now time.Time) bool {
	if s.holds != nil {
		same := state
		if same.Guarded = s.holds.Guarded; s.holds.Equal(same) {
			if s.writing == nil {
				s.release(state.Bindings)
			}
			return true
		}
	}
	s.completeWrite(now)
	s.holds = nil
	if s.guard.failed.Equal(now) {
		return false // its time to be tried again comes
	}
	w := s.begin(state)
	inForce := w.inForce
	if s.last != nil && s.last.Equal(state) {
		inForce = nil // the backend may say so before it has looked whether somebody undid that
	}
	s.await(w, inForce, now)
	if s.writing == w {
		s.stands(w, now)
	}
	return s.holds != nil
}

// begin starts a write beside the loop. What is to come after it is done there, too, and nobody waits for that.
func (s *Supervisor) begin(state firewall.State, after ...func()) *write {
	ctx, cancel := context.WithTimeout(context.Background(), syncBound)
	w := &write{state: state, putOff: cancel, inForce: make(chan struct{}), done: make(chan struct{})}
	s.writing = w
	s.running.Go(func() {
		defer cancel()
		if w.writes, w.err = s.Firewall.Sync(ctx, state, func() { close(w.inForce) }); w.writes > 0 {
			s.Events.Log.Debug("firewall written", "writes", w.writes)
		}
		close(w.done)
		s.post(func() {
			if s.writing == w {
				s.completeWrite(time.Now())
			}
		})
		for _, f := range after {
			f()
		}
	})
	return w
}

// await waits until a write is in force, or done; for the second alone if inForce is nil.
func (s *Supervisor) await(w *write, inForce <-chan struct{}, now time.Time) {
	tick := time.NewTicker(fenceBound)
	defer tick.Stop()
	for {
		select {
		case <-inForce:
			return
		case <-w.done:
			s.conclude(w, now)
			return
		case <-tick.C:
			if s.guard.suspect || s.waker.pending(Firewall) {
				s.giveUp(w)
				inForce = nil
			}
		}
	}
}

// completeWrite puts off the rest of the write under way, if there is one, or waits for it, and draws the conclusions.
// The rest that was put off is for the next write to do.
func (s *Supervisor) completeWrite(now time.Time) {
	switch w := s.writing; {
	case w == nil:
	case w.beside: // nobody puts a check off
		s.await(w, nil, now)
	default:
		w.putOff()
		<-w.done
		s.conclude(w, now)
	}
}

// conclude draws the conclusions from a write that is done.
func (s *Supervisor) conclude(w *write, now time.Time) {
	s.writing = nil
	defer s.answerAll(now)
	if w.beside {
		defer s.noteChecked(w, now)
	}
	switch {
	case errors.Is(w.err, context.Canceled) && !w.late:
		s.stands(w, now)
		s.holds, s.last = nil, nil
	case w.err != nil && !errors.Is(w.err, firewall.ErrShut):
		s.holds = nil
		s.notWritten(w, now)
	default:
		s.stands(w, now)
		s.release(w.state.Bindings)
		if retry := s.troubles.note(s.Events, now, "iptables", w.err); w.err != nil {
			s.agenda.by(dueCheck, retry)
		}
	}
}

// bound follows a write: the bindings are those of the plan now.
func (s *Supervisor) bound(p Plan, now time.Time) {
	serves := make(map[uint16]bool, len(p.Bindings))
	for _, b := range p.Bindings {
		serves[b.To.Port()] = true
	}
	for _, vm := range s.vms {
		before := vm.current
		vm.current = nil
		for _, q := range vm.processes {
			if serves[q.Port] {
				vm.current = q
			}
		}
		if vm.current == nil || vm.current == before && vm.current.shown {
			continue
		}
		if !vm.current.Retired.IsZero() { // the rules are again what they were when it was started
			vm.current.asked = s.heard
		}
		vm.current.Retired, vm.current.Idle = time.Time{}, false
		vm.current.shown = false
		s.show(vm)
		if before != nil && before.Policy.Key() != vm.current.Policy.Key() {
			s.Events.Emit(events.InForce, events.About{
				VM: vm.current.Policy.Name, IP: vm.addr, Port: vm.current.Port, PID: vm.current.pid(),
				MS: events.CeilMS(time.Since(vm.current.asked)),
			})
		}
	}
	for _, id := range p.Retire {
		q := s.process(id)
		q.Retired = now
		s.agenda.at(dueRetired, now.Add(drainPoll))
		s.Events.Emit(events.ProxyRetires, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, PID: q.pid()})
	}
}

// show has the files under an AppVM's name tell of the process that serves it, beside the loop: a file system may not answer.
func (s *Supervisor) show(vm *appVM) {
	p := vm.current
	if vm.showing || p == nil || p.shown {
		return
	}
	vm.showing = true
	s.running.Go(func() {
		err := p.proxy.Current()
		s.post(func() {
			vm.showing, p.shown = false, err == nil                 // else at the next look again: the disk may be full now
			s.changed = s.changed || len(s.waiters) > 0 || !s.ready // they wait for it
			if err != nil && !p.hidden && !p.Dying {
				s.Events.Emit(events.FilesStale, events.About{VM: p.Policy.Name, IP: vm.addr, Err: err.Error()})
			}
			p.hidden = err != nil
			if vm.current != p {
				s.show(vm)
			}
		})
	})
}

// beingShown reports whether files are being written that somebody may be about to read. Where that has failed before, nobody
// waits for it.
func (vm *appVM) beingShown() bool { return vm.showing && vm.current != nil && !vm.current.hidden }

// release follows a successful write of these bindings: nothing else in the firewall leads to a proxy's port.
func (s *Supervisor) release(bindings []firewall.Binding) {
	if !s.cleaned { // an earlier run may have crashed
		s.cleaned = true
		s.running.Go(func() { // it takes as long as there are connections
			n, err := s.ForgetAll(bindings)
			s.Events.Log.Debug("connections of an earlier run forgotten", "count", n)
			if err != nil {
				s.Events.Emit(events.StillTracked, events.About{Err: err.Error()})
			}
		})
	}
	s.freed = slices.DeleteFunc(s.freed, func(port uint16) bool {
		if slices.ContainsFunc(bindings, func(b firewall.Binding) bool { return b.To.Port() == port }) {
			return false // its process has ended since the write began
		}
		s.ports.release(port)
		return true
	})
}

// process finds a generation; nil when it has ended since.
func (s *Supervisor) process(id int) *process {
	for _, vm := range s.vms {
		if i := slices.IndexFunc(vm.processes, func(p *process) bool { return p.ID == id }); i >= 0 {
			return vm.processes[i]
		}
	}
	return nil
}

// shutdown takes bindings and holes away, then the processes, then all that is ours in the firewall, the fence too.
// Systemd allows it 10 s (TimeoutStopSec in vifproxyd.service).
func (s *Supervisor) shutdown() error {
	s.notify("STOPPING=1")
	s.Events.Emit(events.DaemonStops, events.About{})
	s.guard = guard{} // that somebody undid the rules before is no failure of what is written now
	delete(s.troubles, "firewall")
	s.sync(firewall.State{}, time.Now())
	s.completeWrite(time.Now())
	unbound := s.troubles["firewall"].Err
	for _, vm := range s.vms {
		for _, p := range vm.processes {
			if !p.Dying {
				p.order.why = "vifproxyd stops"
				p.tell(Gently)
			}
		}
	}
	s.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), syncBound)
	defer cancel()
	return errors.Join(unbound, s.Firewall.Remove(ctx))
}
