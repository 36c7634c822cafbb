package explain

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/tinyproxy"
)

// Tried is the outcome of trying a request.
type Tried struct {
	tinyproxy.Outcome
	Stuck netip.AddrPort // where what was sent has not left this VM for; the zero AddrPort if all has
	Name  string         // why the resolver has given it no address; "" if that is not known
	Err   error
}

// what returns what a try failed by, in the words of package events; "" if it did not.
func (t Tried) what() string {
	switch {
	case t.Err != nil, t.Stage == tinyproxy.Connected:
		return ""
	case t.Stuck.IsValid():
		return events.OtherTable
	case t.Stage == tinyproxy.Opening:
		return events.NoAnswer
	case t.Stage == tinyproxy.NoAnswer:
		return events.HostRefused
	case t.Stage == tinyproxy.Unknown, t.Stage == tinyproxy.Resolving:
		return string(events.ReasonName)
	}
	return ""
}

// step returns the step of the try.
func (t Tried) step(r tinyproxy.Request) control.Step {
	step := control.Step{Guard: guardTry, Lines: []control.Line{}}
	took := t.Took.Round(time.Millisecond)
	switch {
	case t.Err != nil:
		step.Says = "not tried: " + t.Err.Error()
	case t.Stage == tinyproxy.Connected && t.Status == http.StatusOK:
		step.Passes = true
		step.Says = fmt.Sprintf("connected in %v; nothing was sent to it", took)
	case t.Stage == tinyproxy.Connected && !r.Tunnel:
		step.Passes = true
		step.Says = fmt.Sprintf("the Upstream is connected in %v; a tunnel is not what the request asks of it, and it answers that with %d",
			took, t.Status)
	case t.Stage == tinyproxy.Connected && t.Status != 0:
		step.Says = fmt.Sprintf("the Upstream answers %d", t.Status)
	case t.Stage == tinyproxy.Connected:
		step.Says = fmt.Sprintf("the Upstream does not answer within %v", took)
	case t.Stage == tinyproxy.Unknown:
		step.Says = "the name does not resolve"
		if why := cmp.Or(t.Name, t.Why); why != "" {
			step.Says += ": " + why
		}
	case t.Stage == tinyproxy.Resolving:
		step.Says = "the name servers have not answered in time"
	case t.Stage == tinyproxy.NoAnswer:
		step.Says = "the connection is refused, or there is no route"
	case t.Stuck.IsValid():
		step.Says = fmt.Sprintf("no address has answered within %v: what the proxy sends to %s does not leave this VM, as another program's rule drops it",
			took, t.Stuck)
	case t.Stage == tinyproxy.Opening:
		step.Says = fmt.Sprintf("no address has answered within %v: the host is silent, or another program's rule drops what the proxy sends", took)
	case t.Status != 0:
		step.Says = fmt.Sprintf("tinyproxy answers %d", t.Status)
	default:
		step.Says = fmt.Sprintf("tinyproxy has not answered within %v", took)
	}
	return step
}
