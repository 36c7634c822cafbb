package supervisor

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/rules"
)

// resync has everything read at once.
func (s *Supervisor) resync(now time.Time) {
	s.burst = time.Time{}
	for _, what := range []task{dueLinks, dueRules, dueCheck} {
		s.agenda.at(what, now)
	}
	s.guard.suspect, s.guard.undone = true, false
	s.agenda.at(dueResync, now.Add(s.Look))
}

// schedule turns reasons into times, but for Rules: at once, or when it is the turn of a check.
func (s *Supervisor) schedule(reasons Reason, now time.Time) {
	if reasons.has(Links) {
		s.agenda.at(dueLinks, now)
	}
	if reasons.has(Resolvers) {
		s.agenda.at(dueResolvers, now)
	}
	if reasons.has(Firewall) {
		s.guard.suspect = true
		s.guard.again = s.checking()
		s.agenda.by(dueCheck, s.guard.next(now))
	}
}

// expectRules has the rules read when what changes them, from first to last as far as it is known, is over.
func (s *Supervisor) expectRules(first, last, now time.Time) {
	if s.burst.IsZero() {
		s.burst, s.edited = now, first
	}
	s.agenda.at(dueRules, earlier(last.Add(settle), s.burst.Add(settleMost)))
}

// stale reports whether the rules of AppVMs may be others than those that were read last. Then they are read soon.
// Whether a change was heard of is not enough to go by: netlink may have been faster than inotify.
func (s *Supervisor) stale(now time.Time, of ...netip.Addr) bool {
	if s.burst.IsZero() && s.RulesChanged(of...) {
		s.expectRules(now, now, now)
	}
	return !s.burst.IsZero()
}

// read reads the inputs that are due and tells whether there is anything to reconcile. What cannot be read stays
// as it was last known: "could not read" is never "there is nothing".
func (s *Supervisor) read(now time.Time) bool {
	s.heard = now
	if s.changed && !s.agenda.has(dueNews) {
		s.agenda.at(dueNews, now)
		if s.starting() >= massStart {
			s.agenda.at(dueNews, later(now, s.planned.Add(gather)))
		}
	}
	s.changed = false
	work := s.agenda.take(dueNews, now)
	if s.agenda.take(dueLinks, now) {
		links, err := s.ReadLinks()
		s.agenda.at(dueLinks, s.troubles.note(s.Events, now, "links", err))
		if err != nil || !links.Equal(s.inputs.Links) {
			work = true // most events of an attach change nothing yet
		}
		if err == nil {
			s.inputs.Links = links
		}
	}
	if s.agenda.take(dueRules, now) {
		set, err := s.ReadRules()
		over := s.burst.Add(settleMost) // long ago, if nothing settles
		s.agenda.at(dueRules, s.troubles.note(s.Events, now, "rules", err))
		switch {
		case err == nil && now.Before(over) && truncated(s.inputs.Rules, set):
			s.agenda.at(dueRules, over) // somebody is about to write
		case err == nil:
			s.cache.keep(s.inputs.Rules, set)
			s.inputs.Rules = set
			s.noteWriters(set, now)
			if set.Again > 0 {
				s.agenda.at(dueRules, time.Now().Add(set.Again)) // reading takes its time
			}
			fallthrough
		default:
			work = true
			if !s.burst.IsZero() {
				s.heard, s.burst = s.edited, time.Time{}
			}
		}
	}
	if s.expire(now) {
		work = true
	}
	if s.agenda.take(dueLate, now) && s.checking() {
		work = true
		s.giveUp(s.writing)
	}
	switch {
	case s.agenda.isDue(now, dueCheck) && s.canCheckBeside() && !work:
		s.agenda.at(dueCheck, time.Time{})
		s.checkBeside(now)
	case s.agenda.take(dueCheck, now):
		work = true
		s.guard.looks++
		if s.knowsForward() {
			s.check(now) // before anything else
			s.readForward(now)
		} else {
			s.readForward(now) // without it nothing starts
			s.check(now)
		}
		s.verify(now)
	}
	for _, what := range []task{dueRetired, duePlan, dueReady, dueResolvers} {
		work = s.agenda.take(what, now) || work
	}
	if !work {
		return false
	}
	s.readBinary(now)
	s.readPlaces(now)
	resolvers, err := s.ReadResolvers()
	if retry := s.troubles.note(s.Events, now, "resolvers", err); err == nil {
		s.inputs.Resolvers = resolvers
	} else {
		s.agenda.at(dueResolvers, retry)
	}
	return true
}

// readPlaces reads what sandboxes depend on. A change is believed when it has lasted for a moment: directories in /run are
// taken away and made again when their service restarts, and every change is a new process for each AppVM.
func (s *Supervisor) readPlaces(now time.Time) {
	places := s.ReadPlaces(s.pages()...)
	switch {
	case places == s.inputs.Places:
		s.moved.places = ""
	case s.inputs.Places == "" || places == s.moved.places && now.Sub(s.moved.since) >= settleMost:
		s.inputs.Places, s.moved.places = places, ""
	default:
		if places != s.moved.places {
			s.moved.places, s.moved.since = places, now
		}
		s.agenda.at(dueResolvers, s.moved.since.Add(settleMost))
	}
}

// pages returns the files that templates make tinyproxy read while it serves, each once.
func (s *Supervisor) pages() (files []string) {
	for _, d := range s.want {
		if d.Policy != nil {
			files = append(files, d.Policy.Config.Reads...)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

func (s *Supervisor) readBinary(now time.Time) {
	binary, err := s.ReadBinary()
	if s.troubles.note(s.Events, now, "tinyproxy", err); err == nil {
		s.inputs.Binary = binary
	}
}

// truncated tells whether a rule file has become empty, which is how writing in place begins.
func truncated(before, now rules.Set) bool {
	return slices.ContainsFunc(now.Files, func(f rules.File) bool {
		return f.Empty && slices.ContainsFunc(before.Files, func(old rules.File) bool {
			return old.Path == f.Path && !old.Empty
		})
	})
}
