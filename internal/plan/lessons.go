package plan

import (
	"slices"
	"time"

	"vifproxy/internal/policy"
	"vifproxy/rules"
)

// A Lesson is a time in which an AppVM reaches every public host by its name, so that people learn what its list needs.
type Lesson struct {
	Who   Identity
	ID    int              // never 0, and never that of another one
	Until time.Duration    // in time since the machine began
	Vifs  []string         // by which the AppVM was connected at the beginning: another VM that gets the address has others
	Over  func(why string) // is called when it ends, and must not wait
}

// Lessons are those under way. Nothing else has them, so they end with the daemon.
type Lessons struct {
	last int
	all  map[Identity]*Lesson
}

// Of returns the lesson of an AppVM; nil if there is none.
func (l *Lessons) Of(who Identity) *Lesson { return l.all[who] }

// Begin begins a lesson, or returns why that is not possible, with the remedy. The caller sets Over.
func (l *Lessons) Begin(d *Desired, until time.Duration) (lesson *Lesson, why string) {
	if why = d.mayNotLearn(d.Vifs); why != "" {
		return nil, why
	}
	who := d.Identity()
	if l.all[who] != nil {
		return nil, "it learns already: end the other `vifproxyctl learn` first"
	}
	if l.all == nil {
		l.all = map[Identity]*Lesson{}
	}
	l.last++
	lesson = &Lesson{Who: who, ID: l.last, Until: until, Vifs: d.Vifs}
	l.all[who] = lesson
	return lesson, ""
}

// End ends a lesson, unless it has ended.
func (l *Lessons) End(lesson *Lesson, why string) {
	if l.all[lesson.Who] == lesson {
		delete(l.all, lesson.Who)
		lesson.Over(why)
	}
}

// Stop ends the lesson of an AppVM, if there is one.
func (l *Lessons) Stop(who Identity) {
	if lesson := l.all[who]; lesson != nil {
		l.End(lesson, "it was ended")
	}
}

// Expire ends those whose time is over, and reports whether there was any. It returns when the next is over; 0 if there is none.
func (l *Lessons) Expire(now time.Duration) (next time.Duration, any bool) {
	for _, lesson := range l.all {
		if lesson.Until <= now {
			l.End(lesson, "its time is over")
			any = true
		} else if next == 0 || lesson.Until < next {
			next = lesson.Until
		}
	}
	return next, any
}

// Settle ends those that may not go on. want is what should be there now. failure returns why a policy does not run, nil if it does.
func (l *Lessons) Settle(want []*Desired, failure func(*policy.Policy) error) {
	for who, lesson := range l.all {
		why := "its list is gone"
		if i := slices.IndexFunc(want, func(d *Desired) bool { return d.Identity() == who }); i >= 0 {
			d := want[i]
			if why = d.mayNotLearn(lesson.Vifs); why == "" {
				if err := failure(d.Learning); err != nil {
					why, d.Learning = "its proxy does not run: "+err.Error(), nil
				}
			}
		}
		if why != "" {
			l.End(lesson, why)
		}
	}
}

// mayNotLearn returns why the AppVM may not learn, with the remedy; "" if it may. vifs are those of which it must still have one.
func (d *Desired) mayNotLearn(vifs []string) (why string) {
	switch {
	case d.Held:
		return "it is stopped: start it with `vifproxyctl start " + d.Name + "`"
	case !d.Connected():
		return "it is not connected: start the AppVM"
	case !slices.ContainsFunc(d.Vifs, func(vif string) bool { return slices.Contains(vifs, vif) }):
		return "it has connected again: begin again"
	case d.Origin == rules.InRange:
		return "it has no list of its own: `vifproxyctl allow NAME." + d.Addr.String() + " HOST` makes one"
	case d.Policy == nil:
		return "its list is wrong: " + d.Err.Error()
	case !d.Policy.Config.Filter.AllowsByLine():
		return "the template `config` says FilterDefaultDeny No, or has FilterURLs: what was learnt could not be a line of its list"
	}
	return ""
}
