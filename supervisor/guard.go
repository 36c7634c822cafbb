package supervisor

import (
	"fmt"
	"slices"
	"time"

	"vifproxy/firewall"
)

const (
	checkTimeout       = 2 * time.Second        // until a check that has not ended counts as failed
	fenceRetryInterval = 5 * time.Second        // between tries to put the fence up again, at most
	checkInterval      = 5 * time.Millisecond   // between checks, at least
	checkShare         = 10                     // of the time, one in so many parts is for checks that hints ask for, in the long run
	checkBurst         = 500 * time.Millisecond // of them may come at once: the rules may be deleted just after another change
	repairsMax         = 5                      // in quietFor; who undoes the rules more often ends the proxies
	quietFor           = time.Second            // without a repair, until proxies run again
	quietShare         = 10                     // the same in repairs, where these take long: the fence is open meanwhile
	checkCostMax       = 100 * time.Millisecond
)

var (
	errLate   = fmt.Errorf("%w, for all that is known: the check takes longer than %v", firewall.ErrUnfenced, checkTimeout)
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
	return later(now, g.checked.Add(max(checkInterval, checkShare*(g.spent-checkBurst))))
}

// account notes that a check has ended, with what it took of the time that is for checks.
func (g *guard) account(ended time.Time) {
	g.took = ended.Sub(g.began)
	g.spent = max(0, g.spent-ended.Sub(g.checked)/checkShare) + min(g.took, checkCostMax)
	g.checked = ended
}

// quiet is the time in which more than repairsMax are too many, and without any it is quiet.
func (g *guard) quiet() time.Duration { return max(quietFor, quietShare*g.took) }

// rest notes what the round of a check took.
func (g *guard) rest(round time.Time) {
	if g.began.Equal(round) {
		g.account(time.Now())
	}
}
