package supervisor

import (
	"fmt"
	"time"

	"vifproxy/firewall"
	"vifproxy/internal/pace"
)

// No fence, no proxy. The loop believes what the kernel was made to hold until somebody may have changed it. Then it makes the kernel
// hold the same once more, before it looks at anything else. If that fails, or if nobody can tell whether the fence stands, all proxies
// end at once, and none starts until a write has succeeded.

const (
	checkTimeout       = 2 * time.Second // until a check that has not ended counts as failed
	fenceRetryInterval = 5 * time.Second // between tries to put the fence up again, at most
)

var (
	errLate   = fmt.Errorf("%w, for all that is known: the check takes too long", firewall.ErrUnfenced)
	errUndone = fmt.Errorf("%w: another program undoes the rules as often as they are restored; proxies run again when"+
		" it leaves them alone", firewall.ErrUnfenced)
)

// A guard is what is known of the fence.
type guard struct {
	pace.Pace
	unfenced error     // why no proxy may run; nil if one may
	suspect  bool      // somebody may have changed the firewall since the last look at it
	again    bool      // somebody may have changed it since the check under way began
	doubt    bool      // the last check failed
	looks    int       // how often the rest of what a check looks at was read
	failed   time.Time // the round in which a write failed: it is not tried again in that round
}
