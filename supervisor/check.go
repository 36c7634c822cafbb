package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/events"
)

// No fence, no proxy. What the kernel was made to hold is believed until somebody may have changed it. Then it is made to
// hold the same once more, before anything else is looked at; if that fails, or if nobody can tell whether the fence
// stands, all proxies end at once, and none starts until a write has succeeded.

const (
	fenceBound   = 2 * time.Second        // until a check that has not ended counts as failed
	fenceRetry   = 5 * time.Second        // between tries to put the fence up again, at most
	checkGap     = 5 * time.Millisecond   // between checks, at least
	checkShare   = 10                     // of the time, one in so many parts is for checks that hints ask for, in the long run
	checkBurst   = 500 * time.Millisecond // of them may come at once: the rules may be deleted just after another change
	mostRepairs  = 5                      // in quietFor; who undoes the rules more often ends the proxies
	quietFor     = time.Second            // without a repair, until proxies run again
	quietShare   = 10                     // the same in repairs, where these take long: the fence is open meanwhile
	checkTooLong = 100 * time.Millisecond
)

var (
	errLate   = fmt.Errorf("%w, for all that is known: the check takes longer than %v", firewall.ErrUnfenced, fenceBound)
	errUndone = fmt.Errorf("%w: another program undoes the rules as often as they are restored; proxies run again when"+
		" it leaves them alone", firewall.ErrUnfenced)
)

// guard is what is known of the fence.
type guard struct {
	unfenced error         // why no proxy may run; nil if one may
	suspect  bool          // somebody may have changed the firewall since it was last looked at
	again    bool          // somebody may have changed it since the check under way began
	doubt    bool          // the last check failed
	looks    int           // how often what else a check looks at was read
	began    time.Time     // when the last check began
	checked  time.Time     // when its round was over
	took     time.Duration // its round
	spent    time.Duration // by checks, of what is for them; less by a tenth of the time since then
	repairs  []time.Time   // of what somebody had undone, within the last quiet
	undone   bool          // too often; until a check finds nothing to do
	failed   time.Time     // the round in which a write failed: it is not tried once more in that round
}

// next is when a hint that comes now is acted on: at once, unless checks that find nothing would take too much of the time.
// Two managers of one ruleset must not fight at speed, and as long as they do, nothing is open.
func (g *guard) next(now time.Time) time.Time {
	switch {
	case g.undone:
		return later(now, g.checked.Add(g.quiet()))
	case slices.ContainsFunc(g.repairs, g.began.Equal):
		return now // it has found something, and may once more
	}
	return later(now, g.checked.Add(max(checkGap, checkShare*(g.spent-checkBurst))))
}

// account notes that a check has ended, with what it took of the time that is for checks.
func (g *guard) account(ended time.Time) {
	g.took = ended.Sub(g.began)
	g.spent = max(0, g.spent-ended.Sub(g.checked)/checkShare) + min(g.took, checkTooLong)
	g.checked = ended
}

// quiet is the time in which more than mostRepairs are too many, and without any it is quiet.
func (g *guard) quiet() time.Duration { return max(quietFor, quietShare*g.took) }

// rest notes what the round of a check took.
func (g *guard) rest(round time.Time) {
	if g.began.Equal(round) {
		g.account(time.Now())
	}
}

// check has the firewall hold what it was last made to hold. If nobody can have changed it since, a write is due that failed or
// was put off, which is the plan's.
func (s *Supervisor) check(now time.Time) {
	s.completeWrite(now)
	s.holds = nil
	if !s.guard.suspect || s.last == nil {
		return
	}
	s.guard.began = now
	state, same := s.lastThatServes()
	for again := !s.guard.doubt; ; again = false { // twice, if the last one has not failed
		w := s.begin(state)
		w.same, w.again = same, again
		if s.await(w, nil, now); w.err == nil || !again {
			return
		}
	}
}

// lastThatServes returns what the firewall was last made to hold, but for bindings to what does not serve any more, and ports
// of processes that have ended; same if there are none of these.
func (s *Supervisor) lastThatServes() (state firewall.State, same bool) {
	state = *s.last
	state.Bindings = nil
	for _, b := range s.last.Bindings {
		if s.vms[b.Addr].serves(b.To.Port()) != nil || s.tries(b) {
			state.Bindings = append(state.Bindings, b)
		}
	}
	state.Guarded = slices.DeleteFunc(slices.Clone(state.Guarded), func(port uint16) bool { return !s.ports.used[port] })
	return state, len(state.Bindings) == len(s.last.Bindings) && len(state.Guarded) == len(s.last.Guarded)
}

// Another program's change has the firewall read as a whole, which takes milliseconds where there are many AppVMs. Qubes makes
// one each time that an AppVM comes, just before its vif is complete: so the loop does not wait for such a check, and starts
// meanwhile what is new. A process that nobody is bound to does nothing, and a binding waits for the check, as every write does.

// canCheckBeside reports whether the loop need not wait for a check.
func (s *Supervisor) canCheckBeside() bool {
	g := &s.guard
	return s.ready && g.suspect && !g.doubt && g.unfenced == nil && s.last != nil && s.knowsForward() && len(s.waiters) == 0
}

// checkBeside begins a check. If one is under way, the next begins when that is over.
func (s *Supervisor) checkBeside(now time.Time) {
	if s.checking() {
		s.guard.again = true
		return
	}
	s.completeWrite(now)
	if s.guard.unfenced != nil || s.last == nil { // so that write has ended
		s.agenda.by(dueCheck, now)
		return
	}
	s.holds, s.guard.began, s.guard.again = nil, now, false
	state, same := s.lastThatServes()
	w := s.begin(state, s.lookAround())
	w.same, w.again, w.beside = same, true, true
	s.agenda.at(dueLate, now.Add(fenceBound))
}

// lookAround returns what reads the rest of what a check looks at, for another goroutine, and gives it to the loop. It is not taken
// if the loop has read it by itself since.
func (s *Supervisor) lookAround() func() {
	s.guard.looks++
	look, follows, readForward, readListeners := s.guard.looks, s.followsForward(), s.ReadForward, s.ReadListeners
	return func() {
		var forward firewall.Forward
		var forwardErr error
		if follows {
			ctx, cancel := context.WithTimeout(context.Background(), forwardBound)
			defer cancel()
			forward, forwardErr = readForward(ctx)
		}
		listeners, err := readListeners()
		s.post(func() {
			if s.guard.looks != look {
				return
			}
			now := time.Now()
			if follows && s.heardForward(forward, forwardErr, now) {
				s.agenda.by(duePlan, now)
			}
			s.heardListeners(listeners, err, now)
		})
	}
}

// checking reports whether a check is under way beside the loop.
func (s *Supervisor) checking() bool { return s.writing != nil && s.writing.beside }

// noteChecked follows a check beside the loop. If it has failed, the loop waits for the next one, which comes at once.
func (s *Supervisor) noteChecked(w *write, now time.Time) {
	g := &s.guard
	g.account(time.Now())
	s.agenda.at(dueLate, time.Time{})
	if !w.same || w.writes > 0 || w.err != nil {
		s.agenda.by(duePlan, now)
	}
	switch {
	case w.err != nil && !errors.Is(w.err, firewall.ErrShut):
		g.suspect, g.doubt = true, true
		s.agenda.by(dueCheck, now)
	case g.again:
		g.suspect = true
		s.agenda.by(dueCheck, g.next(now))
	}
	g.again = false
}

// giveUp has a write that takes too long count as failed.
func (s *Supervisor) giveUp(w *write) {
	s.unfence(errLate)
	w.late = true
	w.putOff()
}

// serves is the process at a port that the bindings point at.
func (vm *appVM) serves(port uint16) *process {
	if vm == nil || vm.current == nil || vm.current.Port != port || vm.current.Dying || vm.current.Deaf {
		return nil
	}
	return vm.current
}

// stands follows a write that succeeded: the fence stands, unless somebody takes it down as often as it is put up.
func (s *Supervisor) stands(w *write, now time.Time) {
	g := &s.guard
	s.holds, s.last = &w.state, &w.state
	g.doubt = false
	g.suspect = g.suspect && w.known // somebody may have come after that
	w.known = true
	g.repairs = slices.DeleteFunc(g.repairs, func(at time.Time) bool { return now.Sub(at) >= g.quiet() })
	switch {
	case w.same && w.writes > 0:
		g.repairs = append(g.repairs, g.began)
		g.undone = g.undone || len(g.repairs) > mostRepairs
	case w.same && len(g.repairs) == 0:
		g.undone = false
	}
	if g.undone {
		g.suspect = true
		s.agenda.by(dueCheck, now.Add(g.quiet()))
		s.troubles.note(s.Events, now, "firewall", errUndone)
		s.unfence(errUndone)
		return
	}
	s.troubles.note(s.Events, now, "firewall", nil)
	if g.unfenced != nil && s.knowsForward() {
		g.unfenced = nil
		s.changed = true
	}
}

// notWritten follows a write that failed.
func (s *Supervisor) notWritten(w *write, now time.Time) {
	g, err := &s.guard, w.err
	if g.suspect && !w.again && !errors.Is(err, firewall.ErrUnfenced) {
		err = fmt.Errorf("%w, for all that is known: %w", firewall.ErrUnfenced, err)
	}
	if errors.Is(err, firewall.ErrUnfenced) {
		g.suspect = true
		s.unfence(err)
	}
	if w.again {
		return
	}
	g.failed = now
	s.agenda.at(dueCheck, s.troubles.note(s.Events, now, "firewall", err))
	if g.unfenced != nil {
		s.agenda.by(dueCheck, now.Add(fenceRetry))
	}
}

// unfence ends all proxies, and has none start until the fence stands.
func (s *Supervisor) unfence(why error) {
	if s.guard.unfenced == nil {
		s.Events.Emit(events.Unfenced, events.About{Err: why.Error()})
	}
	s.guard.unfenced = why
	s.end(unfenced(s.actual()).End)
	s.giveUpTrials()
	s.changed = true
}
