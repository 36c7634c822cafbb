package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"vifproxy/control"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// mostLines is how many matching lines an explanation names.
const mostLines = 10

// Explain says what would become of a request, under the policy that serves now. Each guard on its way gives one step.
// A real tinyproxy is asked about the lines, so there is no second opinion on what they match.
func (s *Supervisor) Explain(ctx context.Context, name, address string) (control.Explanation, error) {
	e := control.Explanation{VM: name}
	question, err := questionFor(address)
	if err != nil {
		return e, &control.DaemonError{Code: http.StatusBadRequest, Message: err.Error()}
	}
	e.Request = question.Method + " " + question.Target
	policy, note, err := s.inForce(ctx, name)
	if err != nil {
		return e, err
	}
	e.Note, e.Passes = note, true
	for _, guard := range []func(context.Context, *Policy, tinyproxy.Question) (control.Step, error){
		connectPortStep, rulesStep,
	} {
		step, err := guard(ctx, policy, question)
		if err != nil {
			return e, err
		}
		e.Steps = append(e.Steps, step)
		e.Passes = e.Passes && step.Passes
	}
	return e, nil
}

// inForce is the policy that an AppVM's requests meet, or would meet if it were connected.
func (s *Supervisor) inForce(ctx context.Context, name string) (policy *Policy, note string, err error) {
	_, err = s.ask(ctx, func(reply chan<- answer) {
		d, err := s.find(name)
		if err != nil {
			reply <- answer{err: err}
			return
		}
		policy = d.Policy
		switch vm := s.vms[d.Addr]; {
		case d.Held:
			note = "its proxy is stopped"
		case !d.connected():
			note = "it is not connected"
		case vm == nil || vm.current == nil:
			note = "its proxy does not run"
		default:
			if policy = vm.current.Policy; d.Policy == nil || d.Policy.key != policy.key {
				note = "these are the last good rules, not those of the file"
			}
		}
		if policy == nil {
			err = &control.DaemonError{Code: http.StatusConflict, Message: d.Err.Error()}
		}
		reply <- answer{err: err}
	})
	return policy, note, err
}

// questionFor is what a browser sends to its proxy for an address that a person has: a URL, or HOST[:PORT].
func questionFor(address string) (q tinyproxy.Question, err error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
		if strings.HasSuffix(address, ":80") {
			address = "http://" + strings.TrimPrefix(address, "https://")
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return q, fmt.Errorf("%.200q is neither a URL nor HOST[:PORT]", address)
	}
	host := u.Hostname()
	if addr, err := netip.ParseAddr(host); err != nil || !addr.Is4() {
		h, err := rules.ParseHost(host)
		if err != nil || h.Below {
			return q, fmt.Errorf("%.200q names no host: give a URL, or HOST[:PORT]", address)
		}
		host = h.Name
	}
	port := u.Port()
	switch u.Scheme {
	case "http":
		if port != "" && port != "80" {
			host += ":" + port
		}
		return tinyproxy.Question{Method: http.MethodGet, Target: "http://" + host + u.RequestURI()}, nil
	case "https", "ws", "wss": // browsers make a tunnel for web sockets of both kinds
		if port == "" {
			port = map[bool]string{true: "80", false: "443"}[u.Scheme == "ws"]
		}
		return tinyproxy.Question{Method: http.MethodConnect, Target: host + ":" + port}, nil
	}
	return q, fmt.Errorf("a web proxy does not speak %.20q", u.Scheme)
}

func (p *Policy) judge() tinyproxy.Judge {
	return tinyproxy.Judge{Binary: p.Binary.Path, Filter: p.Config.Filter, ConnectPorts: p.Config.ConnectPorts()}
}

// connectPortStep: a tunnel goes only to the ports that the template names.
func connectPortStep(ctx context.Context, p *Policy, q tinyproxy.Question) (control.Step, error) {
	step := control.Step{Guard: "connect-port", Passes: true, Lines: []control.Line{}}
	if q.Method != http.MethodConnect {
		step.Says = "no tunnel"
		return step, nil
	}
	var err error
	step.Passes, err = p.judge().PortAllowed(ctx, q)
	step.Says = "ConnectPort in the template allows the port"
	if !step.Passes {
		step.Says = "ConnectPort in the template does not allow the port"
	}
	return step, err
}

// rulesStep: the lines of the rule file.
func rulesStep(ctx context.Context, p *Policy, q tinyproxy.Question) (control.Step, error) {
	step := control.Step{Guard: "rules", Lines: []control.Line{}}
	texts := make([]string, len(p.Rules))
	for i, line := range p.Rules {
		texts[i] = line.Text
	}
	matches, err := p.judge().Matches(ctx, texts, []tinyproxy.Question{q}, mostLines)
	if err != nil {
		return step, err
	}
	for _, i := range matches[0] {
		step.Lines = append(step.Lines, control.Line{Path: p.RulesPath, Line: p.Rules[i].Number, Text: p.Rules[i].Text})
	}
	matched := len(step.Lines) > 0
	step.Passes = matched == p.Config.Filter.DefaultDeny
	step.Says = map[bool]string{true: "permitted by", false: "forbidden by"}[step.Passes]
	if !matched {
		step.Says = map[bool]string{true: "no line forbids it", false: "no line permits it"}[step.Passes]
	}
	return step, nil
}
