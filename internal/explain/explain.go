// Package explain says whether a request of an AppVM would pass, and by what: one step for each guard on its way, what came of
// trying it, and what would let it pass, which has been tried too.
//
// Concurrency: a [Subject] is a value that nobody changes, and all functions may be called from any goroutine. They ask real
// processes and name servers, and take seconds, so the loop calls none of them.
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
	// TryTimeout is the time for all trials of one explanation: the answer is there within 3 s.
	TryTimeout = 2500 * time.Millisecond

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
	// Try has a request tried under a policy, until ctx ends. It is apart if the policy is not the one that serves: nobody but
	// the trial may reach then what that policy opens.
	Try func(ctx context.Context, p *policy.Policy, r tinyproxy.Request, apart bool) Tried
}

// Explain says what becomes of a request. Each guard on its way gives one step, and the last step is what came of trying it,
// which decides. A real tinyproxy is asked about the lines, so there is no second opinion on what they match.
func (x Explainer) Explain(ctx context.Context, s Subject, r tinyproxy.Request) (control.Explanation, error) {
	e := control.Explanation{VM: s.Name, Request: r.Line(), Note: s.Note}
	soon, cancel := context.WithTimeout(ctx, TryTimeout)
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

// verdict returns what steps come to. The try decides where it can: what it has opened is not refused by a fence that was asked about
// other addresses, or about none.
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

// proxyStep: there has to be one, with room for one more connection.
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

// templateStep: who asks, and whether a password is wanted.
func (s Subject) templateStep() control.Step {
	step := control.Step{Guard: guardTemplate, Lines: []control.Line{}}
	text := s.Template.Render(rules.Values{VMIP: s.Addr, BindIP: s.Bind})
	if step.Passes, step.Says = tinyproxy.Admits(text, s.Addr); step.Passes {
		step.Says = "Allow, Deny and BasicAuth let the AppVM in"
	}
	return step
}
