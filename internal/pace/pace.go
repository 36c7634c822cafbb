// Package pace says when the firewall may be checked, and whether another program undoes our rules as often as they are restored.
//
// Two managers of one ruleset must not fight at speed: checks take a share of the time in the long run. If somebody undoes the rules too
// often, no proxy runs, so nothing is open meanwhile.
//
// Concurrency: a Pace belongs to one goroutine.
package pace

import (
	"slices"
	"time"
)

const (
	CheckInterval = 5 * time.Millisecond   // between checks, at least
	CheckShare    = 10                     // of the time: in the long run one part in so many is for checks that hints ask for
	CheckBurst    = 500 * time.Millisecond // of checks may come at once: the rules may be deleted just after another change
	CheckCostMax  = 100 * time.Millisecond // that one check counts for
	RepairsMax    = 5                      // in QuietFor; if there are more, proxies end
	QuietFor      = time.Second            // without a repair, until proxies run again
	quietShare    = 10                     // the same in repairs, if these take long: the fence is open meanwhile
)

// A Pace is what is known of the checks so far.
type Pace struct {
	began   time.Time     // when the last check began
	ended   time.Time     // when its round was over
	took    time.Duration // its round
	spent   time.Duration // by checks; less by a share of the time since then
	repairs []time.Time   // of what somebody had undone, within the last quiet
	undone  bool          // too often; until a check finds nothing to do
}

// Next returns when a hint that comes now is acted on: at once, unless checks that find nothing would take too much of the time.
func (p *Pace) Next(now time.Time) time.Time {
	at := p.ended.Add(max(CheckInterval, CheckShare*(p.spent-CheckBurst)))
	switch {
	case p.undone:
		at = p.ended.Add(p.quiet())
	case slices.ContainsFunc(p.repairs, p.began.Equal):
		return now // it has found something, and may once more
	}
	if at.Before(now) {
		return now
	}
	return at
}

// Begin notes that a check begins.
func (p *Pace) Begin(now time.Time) { p.began = now }

// End notes that the check has ended.
func (p *Pace) End(now time.Time) {
	p.took = now.Sub(p.began)
	p.spent = max(0, p.spent-now.Sub(p.ended)/CheckShare) + min(p.took, CheckCostMax)
	p.ended = now
}

// EndRound is End if the check has begun in this round.
func (p *Pace) EndRound(round, now time.Time) {
	if p.began.Equal(round) {
		p.End(now)
	}
}

// Written notes that the firewall has been written. A repair wrote what somebody had undone; if check is set but not repair, a check
// has found nothing to do.
func (p *Pace) Written(now time.Time, check, repair bool) {
	p.repairs = slices.DeleteFunc(p.repairs, func(at time.Time) bool { return now.Sub(at) >= p.quiet() })
	switch {
	case repair:
		p.repairs = append(p.repairs, p.began)
		p.undone = p.undone || len(p.repairs) > RepairsMax
	case check && len(p.repairs) == 0:
		p.undone = false
	}
}

// Undone reports whether somebody undoes the rules too often, and if so, when to look whether that is over.
func (p *Pace) Undone(now time.Time) (again time.Time, undone bool) {
	return now.Add(p.quiet()), p.undone
}

// Forgive forgets that somebody undid the rules.
func (p *Pace) Forgive() { p.undone = false }

// quiet returns the time in which more than RepairsMax are too many, and without any it is quiet.
func (p *Pace) quiet() time.Duration { return max(QuietFor, quietShare*p.took) }
