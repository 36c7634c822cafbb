package supervisor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
)

// No fence, no proxy. What the kernel was made to hold is believed until somebody may have changed it. Then it is made to
// hold the same once more, before anything else is looked at; if that fails, or if nobody can tell whether the fence
// stands, all proxies end at once, and none starts until a write has succeeded.

const (
	fenceBound   = 2 * time.Second      // until a check that has not ended counts as failed
	fenceRetry   = 5 * time.Second      // between tries to put the fence up again, at most
	checkGap     = 5 * time.Millisecond // between checks, at least
	checkShare   = 10                   // of the time, one in so many parts is for checks that hints ask for
	mostRepairs  = 5                    // in quietFor; who undoes the rules more often ends the proxies
	quietFor     = time.Second          // without a repair, until proxies run again
	quietShare   = 10                   // the same in repairs, where these take long: the fence is open meanwhile
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
	began    time.Time     // when the last check began
	checked  time.Time     // when its round was over
	took     time.Duration // its round
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
	return later(now, g.checked.Add(max(checkGap, (checkShare-1)*min(g.took, checkTooLong))))
}

// quiet is the time in which more than mostRepairs are too many, and without any it is quiet.
func (g *guard) quiet() time.Duration { return max(quietFor, quietShare*g.took) }

// rest notes what the round of a check took.
func (g *guard) rest(round time.Time) {
	if g.began.Equal(round) {
		g.checked = time.Now()
		g.took = g.checked.Sub(round)
	}
}

// checkBy has the firewall checked at a time, if it is not to be before.
func (s *Supervisor) checkBy(at time.Time) {
	if s.due.check.IsZero() || at.Before(s.due.check) {
		s.due.check = at
	}
}

// check has the firewall hold what it was last made to hold, but for bindings to what does not serve any more, and ports of
// processes that have ended. If nobody can have changed it since, a write is due that failed or was put off, which is the plan's.
func (s *Supervisor) check(now time.Time) {
	s.completeWrite(now)
	s.holds = nil
	if !s.guard.suspect || s.last == nil {
		return
	}
	s.guard.began = now
	state := *s.last
	state.Bindings = nil
	for _, b := range s.last.Bindings {
		if s.vms[b.Addr].serves(b.To.Port()) != nil || s.tries(b) {
			state.Bindings = append(state.Bindings, b)
		}
	}
	state.Guarded = slices.DeleteFunc(slices.Clone(state.Guarded), func(port uint16) bool { return !s.ports.used[port] })
	same := len(state.Bindings) == len(s.last.Bindings) && len(state.Guarded) == len(s.last.Guarded)
	for _, again := range []bool{true, false} {
		w := s.begin(state)
		w.same, w.again = same, again
		if s.await(w, nil, now); w.err == nil {
			return
		}
	}
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
	g.suspect = g.suspect && w.known // somebody may have come after that
	w.known = true
	g.repairs = slices.DeleteFunc(g.repairs, func(at time.Time) bool { return now.Sub(at) >= g.quiet() })
	switch {
	case w.same && w.writes > 0:
		g.repairs = append(g.repairs, now)
		g.undone = g.undone || len(g.repairs) > mostRepairs
	case w.same && len(g.repairs) == 0:
		g.undone = false
	}
	if g.undone {
		g.suspect = true
		s.checkBy(now.Add(g.quiet()))
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
	s.due.check = s.troubles.note(s.Events, now, "firewall", err)
	if g.unfenced != nil {
		s.checkBy(now.Add(fenceRetry))
	}
}

// unfence ends all proxies, and has none start until the fence stands.
func (s *Supervisor) unfence(why error) {
	if s.guard.unfenced == nil {
		s.Events.Emit(fenceDown, control.About{Err: why.Error()})
	}
	s.guard.unfenced = why
	s.end(unfenced(s.actual()).End)
	s.giveUpTrials()
	s.changed = true
}
