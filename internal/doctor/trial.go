package doctor

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/policy"
)

// trialsMax is for how many AppVMs a host is tried. vifproxyd tries one more at once.
const trialsMax = 3

// trial makes vifproxyd open a connection for some AppVMs whose proxies run, to the first host of their lists, with the uid, sandbox,
// fence and resolvers of the proxy. Nothing is sent.
func (d *doctor) trial(ctx context.Context) {
	const check = "trial"
	if d.status == nil {
		return
	}
	type try struct {
		vm, host string
		control.Explanation
		err error
	}
	var tries []*try
	filter, err := policy.FilterOf(d.rules.Template)
	if err != nil || !filter.DefaultDeny {
		return
	}
	for _, vm := range d.status.VMs {
		for _, file := range d.rules.Files {
			if hosts := file.Hosts(); vm.State == control.Running && file.Name == vm.Name && len(hosts) > 0 && len(tries) < trialsMax {
				tries = append(tries, &try{vm: vm.Name, host: net.JoinHostPort(hosts[0], strconv.Itoa(443))})
			}
		}
	}
	var running sync.WaitGroup
	for _, t := range tries {
		running.Go(func() { t.Explanation, t.err = control.NewClient(d.Socket).Explain(ctx, t.vm, t.host) })
	}
	running.Wait()
	silent := false
	var reached, stuck, unknown, unreached []string
	for _, t := range tries {
		what := fmt.Sprintf("%s to %s", t.vm, t.host)
		switch {
		case t.err != nil: // it stops, or was stopped just now
		case t.Passes:
			reached = append(reached, what)
		case t.What == events.OtherTable:
			stuck = append(stuck, what)
		case t.What == string(events.ReasonName):
			unknown = append(unknown, what)
		case t.What != "":
			silent = silent || t.What == events.NoAnswer // one that is refused at once may be so by a rule here
			unreached = append(unreached, what)
		}
	}
	level := Wrong
	if len(reached) > 0 {
		level = Note // it may be the host
	}
	d.stuck = len(stuck) > 0
	d.leaves = (len(reached) > 0 || silent) && !d.stuck
	d.reportEach(check, Wrong, "see below, others", "what the proxy sends does not leave this VM, as another program's rule drops it: %s",
		"what %d proxies send does not leave this VM, as another program's rule drops it: %s", stuck)
	d.reportEach(check, level, "see resolvers above; else vifproxyctl explain NAME HOST", "a name does not resolve: %s",
		"%d names do not resolve: %s", unknown)
	d.reportEach(check, level, "vifproxyctl explain NAME HOST says more; if it is the same for all hosts, the way out is broken: see routes above",
		"no connection comes about: %s", "%d connections do not come about: %s", unreached)
	d.reportEach(check, OK, "", "a connection comes about: %s", "%d connections come about: %s", reached)
}
