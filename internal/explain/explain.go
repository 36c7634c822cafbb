// Package explain says whether a request of an AppVM would pass, and why. An explanation has one step for each guard on the way of
// the request, and the outcome of trying it. If the request is refused, it has a remedy, which has been tried as well.
//
// Concurrency: a [Subject] is a value that nobody changes, and all functions may be called from any goroutine. They ask real
// processes and name servers, which takes seconds, so the loop calls none of them.
package explain

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

const (
	// tryTimeout is the time for all trials of one explanation. The answer is there within 3 s.
	tryTimeout = 2500 * time.Millisecond

	// linesMax is how many matching lines an explanation names.
	linesMax = 10
)

// A Subject is what an AppVM's requests meet, or would meet if it were connected.
type Subject struct {
	*policy.Policy
	Fence firewall.Fence
	UID   uint32 // of the proxy
	Note  string // why the policy is not the one in force; "" if it is
	Off   string // why no proxy serves it; "" if one does

	File     rules.File // and what else its policy is made of
	ForATime []rules.Host
	Input    policy.Input

	Clients int              // connections of its proxy
	ForAll  []rules.Egress   // what is open for all proxies
	Barred  []control.Barred // interfaces by which proxies may not leave
}

// An Explainer explains requests.
type Explainer struct {
	// LookUp returns a host's addresses, as the C library gets them.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	// Attempts returns where the connections lead that a user opens to a port.
	Attempts func(uid uint32, port uint16) ([]firewall.Attempt, error)
	// Beyond reports whether a user wanted more connections a moment ago than one AppVM may have; nil if nothing bounds them.
	Beyond func(uid uint32) (bool, error)
	// Try tries a request under a policy, until ctx ends. It is apart if another policy serves: then only the trial may reach what
	// this policy opens.
	Try func(ctx context.Context, p *policy.Policy, r tinyproxy.Request, apart bool) Tried
}

// Explain returns what becomes of a request. Each guard on its way gives one step. The last step is the outcome of trying it, which
// decides: a real tinyproxy.
func (x Explainer) Explain(ctx context.Context, s Subject, r tinyproxy.Request) (control.Explanation, error) {
	e := control.Explanation{VM: s.Name, Request: r.Line(), Note: s.Note}
	soon, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	outcome := make(chan Tried, 1)
	go func() { outcome <- x.Try(soon, s.Policy, r, s.Off != "") }() // a proxy that is off has nothing in the fence
	port, err := s.connectPortStep(ctx, r)
	if err != nil {
		return e, err
	}
	lines, err := s.rulesStep(ctx, r)
	if err != nil {
		return e, err
	}
	fence, opens, err := x.fenceStep(soon, s, r)
	if err != nil {
		return e, err
	}
	t := <-outcome
	e.Steps = []control.Step{s.proxyStep(), s.templateStep(), port, lines, fence, t.step(r)}
	e.Verdict = verdict(e.Steps, t)
	e.Passes = e.Verdict == control.Passes
	e.What = t.what()
	if e.Verdict == control.IsRefused {
		e.Remedy = x.tryRemedy(soon, s, e.Steps, r, opens)
	}
	offer(e.Steps, s, r)
	return e, nil
}

// verdict returns the verdict of all steps. The try decides if it can: a connection that it has opened counts, even if the fence,
// asked about other addresses or about none, refuses.
func verdict(steps []control.Step, t Tried) string {
	connected := t.Err == nil && t.Stage == tinyproxy.Connected
	failed := false
	for _, step := range steps {
		switch {
		case step.Passes:
		case step.Guard == guardProxy, step.Guard == guardTry:
			failed = true
		case step.Guard == guardFence && connected:
		default:
			return control.IsRefused
		}
	}
	switch {
	case t.Err == nil && t.Stage == tinyproxy.Asked && t.Status != 0:
		return control.IsRefused // by a line that none of the steps knows
	case failed:
		return control.Fails
	}
	return control.Passes
}

// Guards on the way of a request.
const (
	guardProxy    = "proxy"
	guardTemplate = "template"
	guardPort     = "connect-port"
	guardRules    = "rules"
	guardFence    = "fence"
	guardTry      = "try"
)

// proxyStep says whether a proxy serves the AppVM, with room for one more connection.
func (s Subject) proxyStep() control.Step {
	step := control.Step{Guard: guardProxy, Passes: s.Off == "", Says: s.Off, Lines: []control.Line{}}
	switch most := s.Config.MaxClients; {
	case s.Off != "":
	case s.Clients >= most:
		step.Passes = false
		step.Says = fmt.Sprintf("it is full: %d connections are open, and MaxClients is %d", s.Clients, most)
	default:
		step.Says = fmt.Sprintf("it serves %d of %d connections", s.Clients, most)
	}
	return step
}

// templateStep says whether the template lets this AppVM in, and whether it wants a password.
func (s Subject) templateStep() control.Step {
	step := control.Step{Guard: guardTemplate, Lines: []control.Line{}}
	text := s.Template.Render(rules.Values{VMIP: s.Addr, BindIP: s.Bind})
	if step.Passes, step.Says = tinyproxy.Admits(text, s.Addr); step.Passes {
		step.Says = "Allow, Deny and BasicAuth let the AppVM in"
	}
	return step
}
