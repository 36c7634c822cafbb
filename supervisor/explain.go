package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"vifproxy/control"
	"vifproxy/firewall"
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
	f, err := s.served(ctx, name)
	if err != nil {
		return e, err
	}
	e.Note, e.Passes = f.note, true
	for _, guard := range []func(context.Context, served, tinyproxy.Question) (control.Step, error){
		connectPortStep, rulesStep, s.fenceStep,
	} {
		step, err := guard(ctx, f, question)
		if err != nil {
			return e, err
		}
		e.Steps = append(e.Steps, step)
		e.Passes = e.Passes && step.Passes
	}
	return e, nil
}

// served is what an AppVM's requests meet, or would meet if it were connected.
type served struct {
	*Policy
	fence firewall.Fence
	uid   uint32 // of the proxy
	note  string // why it is not in force

	barred []control.Barred
}

func (s *Supervisor) served(ctx context.Context, name string) (f served, err error) {
	_, err = s.ask(ctx, func(reply chan<- answer) {
		d, err := s.find(name)
		if err != nil {
			reply <- answer{err: err}
			return
		}
		f.Policy = d.Policy
		switch vm := s.vms[d.Addr]; {
		case d.Held:
			f.note = "its proxy is stopped"
		case !d.connected():
			f.note = "it is not connected"
		case vm == nil || vm.current == nil:
			f.note = "its proxy does not run"
		case d.Policy == nil || d.Policy.key != vm.current.Policy.key:
			f.Policy, f.note = vm.current.Policy, "these are the last good rules, not those of the file"
		}
		if f.Policy == nil {
			err = &control.DaemonError{Code: http.StatusConflict, Message: d.Err.Error()}
		} else {
			// As long as it has no proxy, what the fence will be.
			f.uid, f.fence, f.barred = s.Users.UID(d.Addr), s.fenced, s.barredNow()
			f.fence.Ports = slices.Concat(f.fence.Ports, f.Config.Connect)
			f.fence.Proxies = append(slices.Clone(f.fence.Proxies), firewall.Proxy{UID: f.uid, Holes: holes(f.Egress)})
		}
		reply <- answer{err: err}
	})
	return f, err
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
	return tinyproxy.Judge{Binary: p.Binary.Path, Filter: p.Config.Filter.Compiled()}
}

// connectPortStep: a tunnel goes only to the ports that the template names.
func connectPortStep(ctx context.Context, p served, q tinyproxy.Question) (control.Step, error) {
	step := control.Step{Guard: "connect-port", Passes: true, Lines: []control.Line{}}
	if q.Method != http.MethodConnect {
		step.Says = "no tunnel"
		return step, nil
	}
	_, text, err := p.render(anyFiles, anyPort)
	if err != nil {
		return step, err
	}
	judge := p.judge()
	judge.ConnectPorts = tinyproxy.ConnectPorts(text)
	step.Passes, err = judge.PortAllowed(ctx, q)
	step.Says = "ConnectPort in the template allows the port"
	if !step.Passes {
		step.Says = "ConnectPort in the template does not allow the port"
	}
	return step, err
}

// rulesStep: the lines of the rule file.
func rulesStep(ctx context.Context, p served, q tinyproxy.Question) (control.Step, error) {
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
		line := control.Line{Path: p.RulesPath, Line: p.Rules[i].Number, Text: p.Rules[i].Text}
		if written := p.Written[line.Line]; written != "" {
			line.Text = written
		}
		step.Lines = append(step.Lines, line)
	}
	matched := len(step.Lines) > 0
	step.Passes = matched == p.Config.Filter.DefaultDeny
	step.Says = map[bool]string{true: "permitted by", false: "forbidden by"}[step.Passes]
	if !matched {
		step.Says = map[bool]string{true: "no line forbids it", false: "no line permits it"}[step.Passes]
	}
	return step, nil
}
