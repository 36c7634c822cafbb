package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
)

// syncBound is how long one write of the firewall may take.
const syncBound = 10 * time.Second

// apply does what the plan says, in the order that keeps every binding on a living port of its own proxy: first the
// bindings, and in the same transaction the fence, then the ends. What starts does so meanwhile, as nothing leads to it,
// but only if the fence is known to stand.
//
// When the firewall cannot be written, processes that must not serve any more are ended all the same: a binding to a
// port where nobody listens is closed, a process with revoked rules is open. Their ports stay taken until a
// write succeeds, so that nobody else can be given them.
func (l *loop) apply(p plan.Plan, now time.Time) {
	known := l.holds != nil
	if known {
		l.startAll(p.Start, now)
	}
	inForce := l.bind(p, now)
	if l.guard.unfenced != nil {
		return // all has been ended
	}
	if !known {
		l.startAll(p.Start, now)
	}
	if !inForce {
		for i := range p.End {
			if p.End[i].How == plan.Soon {
				p.End[i].How = plan.Now // for what is new still comes to it
			}
		}
	}
	l.end(p.End)
}

// bind has the firewall hold what the plan says, and tells whether that is in force.
func (l *loop) bind(p plan.Plan, now time.Time) bool {
	l.allowances, l.fenced = p.Allowances, l.fence(slices.Concat(p.Allowances, l.trialAllowances()), now)
	bindings := l.withTrials(p.Bindings)
	if !l.sync(firewall.State{Bindings: bindings, Guarded: l.ports.taken(), Fence: l.fenced}, now) {
		return false
	}
	l.bound(p, now)
	l.trialsBound(bindings)
	return true
}

func (l *loop) startAll(policies []*Policy, now time.Time) {
	for _, policy := range policies {
		l.start(policy, now)
	}
}

func (l *loop) end(ends []plan.End) {
	for _, end := range ends {
		if q := l.process(end.ID); q != nil {
			why := end.Why
			if q.proxy == nil { // else it is told when it is known how many connections that cuts
				l.Events.Emit(events.ProxyEnds, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, Why: why})
				why = ""
			}
			q.tell(end.How, why)
		}
	}
}

// A write is one write of the firewall, as the loop sees it.
type write struct {
	state   firewall.State
	putOff  context.CancelFunc // the rest of it, if it has not begun
	late    bool               // it is given up
	inForce <-chan struct{}
	done    <-chan written
	written      // once done
	known   bool // to be in force
	same    bool // nothing else than the last one: it writes only what somebody has undone
	beside  bool // the loop does not wait for it
	again   bool // another try follows at once if it fails
}

// written is what came of a write.
type written struct {
	writes int
	err    error
}

// sync has the firewall hold state, and tells whether that is in force. The rest of the write, which is to take away what
// nobody needs any more, goes on beside the loop: iptables-legacy takes tens of milliseconds for it. What the firewall was
// made to hold is believed until it is to be checked again: a new process is started without reading all rules before.
// That a port is guarded, or not any more, comes with the next write for another reason: a proxy grants no connection to
// whom it is not bound, guarded or not.
func (l *loop) sync(state firewall.State, now time.Time) bool {
	if l.holds != nil {
		same := state
		if same.Guarded = l.holds.Guarded; l.holds.Equal(same) {
			if l.writing == nil {
				l.release(state.Bindings)
			}
			return true
		}
	}
	l.completeWrite(now)
	l.holds = nil
	if l.guard.failed.Equal(now) {
		return false // its time to be tried again comes
	}
	w := l.begin(state, nil)
	inForce := w.inForce
	if l.last != nil && l.last.Equal(state) {
		inForce = nil // the backend may say so before it has looked whether somebody undid that
	}
	l.await(w, inForce, now)
	if l.writing == w {
		l.stands(w, now)
	}
	return l.holds != nil
}

// begin starts a write beside the loop. What is to come after it is done there, too, and nobody waits for that.
func (l *loop) begin(state firewall.State, after func()) *write {
	ctx, cancel := context.WithTimeout(context.Background(), l.syncTimeout)
	inForce, done := make(chan struct{}), make(chan written, 1)
	w := &write{state: state, putOff: cancel, inForce: inForce, done: done}
	l.writing = w
	over := func(l *loop) {
		if l.writing == w {
			l.completeWrite(time.Now())
		}
	}
	beside := writer{l.Firewall, l.Events.Log, l.mailbox, state, inForce, done, over, after}
	l.running.Go(func() { beside.run(ctx, cancel) })
	return w
}

// A writer does one write, beside the loop.
type writer struct {
	firewall firewall.Backend
	log      *slog.Logger
	mail     *mailbox
	state    firewall.State
	inForce  chan struct{}
	done     chan<- written // takes one without waiting
	over     func(*loop)
	after    func()
}

func (w writer) run(ctx context.Context, cancel context.CancelFunc) {
	defer cancel()
	var came written
	if came.writes, came.err = w.firewall.Sync(ctx, w.state, func() { close(w.inForce) }); came.writes > 0 {
		w.log.Debug("firewall written", "writes", came.writes)
	}
	w.done <- came
	w.mail.post(w.over)
	if w.after != nil {
		w.after()
	}
}

// await waits until a write is in force, or done; for the second alone if inForce is nil.
func (l *loop) await(w *write, inForce <-chan struct{}, now time.Time) {
	tick := time.NewTicker(fenceBound)
	defer tick.Stop()
	for {
		select {
		case <-inForce:
			return
		case w.written = <-w.done:
			l.conclude(w, now)
			return
		case <-tick.C:
			if l.guard.suspect || l.waker.pending(Firewall) {
				l.giveUp(w)
				inForce = nil
			}
		}
	}
}

// completeWrite puts off the rest of the write under way, if there is one, or waits for it, and draws the conclusions.
// The rest that was put off is for the next write to do.
func (l *loop) completeWrite(now time.Time) {
	switch w := l.writing; {
	case w == nil:
	case w.beside: // nobody puts a check off
		l.await(w, nil, now)
	default:
		w.putOff()
		w.written = <-w.done
		l.conclude(w, now)
	}
}

// conclude draws the conclusions from a write that is done.
func (l *loop) conclude(w *write, now time.Time) {
	l.writing = nil
	defer l.answerAll(now)
	if w.beside {
		defer l.noteChecked(w, now)
	}
	switch {
	case errors.Is(w.err, context.Canceled) && !w.late:
		l.stands(w, now)
		l.holds, l.last = nil, nil
	case w.err != nil && !errors.Is(w.err, firewall.ErrShut):
		l.holds = nil
		l.notWritten(w, now)
	default:
		l.stands(w, now)
		l.release(w.state.Bindings)
		if retry := l.troubles.note(l.Events, now, "iptables", w.err); w.err != nil {
			l.agenda.by(dueCheck, retry)
		}
	}
}

// bound follows a write: the bindings are those of the plan now.
func (l *loop) bound(p plan.Plan, now time.Time) {
	serves := make(map[uint16]bool, len(p.Bindings))
	for _, b := range p.Bindings {
		serves[b.To.Port()] = true
	}
	for _, vm := range l.vms {
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
			vm.current.asked = l.heard
		}
		vm.current.Retired, vm.current.Idle = time.Time{}, false
		vm.current.shown = false
		l.show(vm)
		if before != nil && before.Policy.Key() != vm.current.Policy.Key() {
			l.Events.Emit(events.InForce, events.About{
				VM: vm.current.Policy.Name, IP: vm.addr, Port: vm.current.Port, PID: vm.current.pid(),
				MS: events.CeilMS(time.Since(vm.current.asked)),
			})
		}
	}
	for _, id := range p.Retire {
		q := l.process(id)
		q.Retired = now
		l.agenda.at(dueRetired, now.Add(drainPoll))
		l.Events.Emit(events.ProxyRetires, events.About{VM: q.Policy.Name, IP: q.vm.addr, Port: q.Port, PID: q.pid()})
	}
}

// show has the files under an AppVM's name tell of the process that serves it, beside the loop: a file system may not answer.
func (l *loop) show(vm *appVM) {
	p := vm.current
	if vm.showing || p == nil || p.shown {
		return
	}
	vm.showing = true
	beside(l, p.proxy.Current, func(l *loop, err error) { l.showed(vm, p, err) })
}

// showed is the news that the files tell of a process, or why they do not.
func (l *loop) showed(vm *appVM, p *process, err error) {
	vm.showing, p.shown = false, err == nil                 // else at the next look again: the disk may be full now
	l.changed = l.changed || len(l.waiters) > 0 || !l.ready // they wait for it
	if err != nil && !p.hidden && !p.Dying {
		l.Events.Emit(events.FilesStale, events.About{VM: p.Policy.Name, IP: vm.addr, Err: err.Error()})
	}
	p.hidden = err != nil
	if vm.current != p {
		l.show(vm)
	}
}

// beingShown reports whether files are being written that somebody may be about to read. Where that has failed before, nobody
// waits for it.
func (vm *appVM) beingShown() bool { return vm.showing && vm.current != nil && !vm.current.hidden }

// release follows a successful write of these bindings: nothing else in the firewall leads to a proxy's port.
func (l *loop) release(bindings []firewall.Binding) {
	if !l.cleaned { // an earlier run may have crashed
		l.cleaned = true
		l.running.Go(forgetPast(l.ForgetAll, l.Events, bindings))
	}
	l.freed = slices.DeleteFunc(l.freed, func(port uint16) bool {
		if slices.ContainsFunc(bindings, func(b firewall.Binding) bool { return b.To.Port() == port }) {
			return false // its process has ended since the write began
		}
		l.ports.release(port)
		return true
	})
}

// forgetPast returns what forgets connections of an earlier run, for another goroutine: it takes as long as there are connections.
func forgetPast(forget func([]firewall.Binding) (int, error), emitter *events.Emitter, bindings []firewall.Binding) func() {
	return func() {
		n, err := forget(bindings)
		emitter.Log.Debug("connections of an earlier run forgotten", "count", n)
		if err != nil {
			emitter.Emit(events.StillTracked, events.About{Err: err.Error()})
		}
	}
}

// process finds a generation; nil when it has ended since.
func (l *loop) process(id int) *process {
	for _, vm := range l.vms {
		if i := slices.IndexFunc(vm.processes, func(p *process) bool { return p.ID == id }); i >= 0 {
			return vm.processes[i]
		}
	}
	return nil
}
