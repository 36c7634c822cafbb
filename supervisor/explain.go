package supervisor

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// mostLines is how many matching lines an explanation names.
const mostLines = 10

// Explain says what becomes of a request, under the policy that serves now. Each guard on its way gives one step, and the last
// step is what came of trying it, which decides. A real tinyproxy is asked about the lines, so there is no second opinion on what
// they match.
func (s *Supervisor) Explain(ctx context.Context, name, address string) (control.Explanation, error) {
	e := control.Explanation{VM: name}
	request, err := requestFor(address)
	if err != nil {
		return e, &control.DaemonError{Code: http.StatusBadRequest, Message: err.Error()}
	}
	e.Request = request.Line()
	f, err := s.served(ctx, name)
	if err != nil {
		return e, err
	}
	soon, cancel := context.WithTimeout(ctx, tryBound)
	defer cancel()
	outcome := make(chan tried, 1)
	go func() { outcome <- s.try(soon, f.Policy, request, f.off != "") }() // a proxy that is off has nothing in the fence
	e.Note = f.note
	e.Steps = []control.Step{f.proxyStep(), templateStep(f)}
	for _, guard := range []func(context.Context, served, tinyproxy.Request) (control.Step, error){
		s.connectPortStep, rulesStep,
	} {
		step, err := guard(ctx, f, request)
		if err != nil {
			return e, err
		}
		e.Steps = append(e.Steps, step)
	}
	fence, opens, err := s.fenceStep(soon, f, request)
	if err != nil {
		return e, err
	}
	t := <-outcome
	e.Steps = append(e.Steps, fence, tryStep(t, request))
	e.Verdict = verdict(e.Steps, t)
	e.Passes = e.Verdict == control.Passes
	e.What = t.what()
	if e.Verdict == control.IsRefused {
		e.Remedy = s.tryRemedy(soon, f, e.Steps, request, opens)
	}
	offer(e.Steps, f, request)
	return e, nil
}

// verdict is what steps come to. The try decides where it can: what it has opened is not refused by a fence that was asked about
// other addresses, or about none.
func verdict(steps []control.Step, t tried) string {
	connected := t.err == nil && t.Stage == tinyproxy.Connected
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
	case t.err == nil && t.Stage == tinyproxy.Asked && t.Status != 0:
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
func (f served) proxyStep() control.Step {
	step := control.Step{Guard: guardProxy, Passes: f.off == "", Says: f.off, Lines: []control.Line{}}
	switch most := f.Config.MaxClients; {
	case f.off != "":
	case f.clients >= most:
		step.Passes = false
		step.Says = fmt.Sprintf("it is full: %d connections are open, and MaxClients is %d", f.clients, most)
	default:
		step.Says = fmt.Sprintf("it serves %d of %d connections", f.clients, most)
	}
	return step
}

// templateStep: who asks, and whether a password is wanted.
func templateStep(f served) control.Step {
	step := control.Step{Guard: guardTemplate, Lines: []control.Line{}}
	text := f.Template.Render(rules.Values{VMIP: f.Addr, BindIP: f.Bind})
	if step.Passes, step.Says = tinyproxy.Admits(text, f.Addr); step.Passes {
		step.Says = "Allow, Deny and BasicAuth let the AppVM in"
	}
	return step
}

// tryStep tells what came of the try.
func tryStep(t tried, q tinyproxy.Request) control.Step {
	step := control.Step{Guard: guardTry, Lines: []control.Line{}}
	took := t.Took.Round(time.Millisecond)
	switch {
	case t.err != nil:
		step.Says = "not tried: " + t.err.Error()
	case t.Stage == tinyproxy.Connected && t.Status == http.StatusOK:
		step.Passes = true
		step.Says = fmt.Sprintf("connected in %v; nothing was sent to it", took)
	case t.Stage == tinyproxy.Connected && !q.Tunnel:
		step.Passes = true
		step.Says = fmt.Sprintf("the Upstream is connected in %v; a tunnel is not what the request asks of it, and it answers that with %d",
			took, t.Status)
	case t.Stage == tinyproxy.Connected && t.Status != 0:
		step.Says = fmt.Sprintf("the Upstream answers %d", t.Status)
	case t.Stage == tinyproxy.Connected:
		step.Says = fmt.Sprintf("the Upstream does not answer within %v", took)
	case t.Stage == tinyproxy.Unknown:
		step.Says = "the name does not resolve"
		if t.Why != "" {
			step.Says += ": " + t.Why
		}
	case t.Stage == tinyproxy.Resolving:
		step.Says = fmt.Sprintf("no resolver has answered within %v", took)
	case t.Stage == tinyproxy.NoAnswer:
		step.Says = "the connection is refused, or there is no route"
	case t.stuck.IsValid():
		step.Says = fmt.Sprintf("no address has answered within %v: what the proxy sends to %s does not leave this VM, as another program's rule drops it",
			took, t.stuck)
	case t.Stage == tinyproxy.Opening:
		step.Says = fmt.Sprintf("no address has answered within %v: the host is silent, or another program's rule drops what the proxy sends", took)
	case t.Status != 0:
		step.Says = fmt.Sprintf("tinyproxy answers %d", t.Status)
	default:
		step.Says = fmt.Sprintf("tinyproxy has not answered within %v", took)
	}
	return step
}

// served is what an AppVM's requests meet, or would meet if it were connected.
type served struct {
	*Policy
	fence firewall.Fence
	uid   uint32 // of the proxy
	note  string // why it is not in force
	off   string // why no proxy serves it

	file      rules.File // and what else its policy is made of
	temporary []rules.Host
	input     policy.Input

	clients int // connections of its proxy

	barred []control.Barred
}

func (s *Supervisor) served(ctx context.Context, name string) (f served, err error) {
	var proxy Proxy
	_, err = s.ask(ctx, func(l *loop, reply chan<- answer) {
		d, err := l.find(name)
		if err != nil {
			reply <- answer{err: err}
			return
		}
		f.Policy = d.Policy
		switch vm := l.vms[d.Addr]; {
		case d.Held:
			f.off = "it is stopped: vifproxyctl start " + name
		case !d.Connected():
			f.off = "the AppVM is not connected"
		case vm == nil || vm.current == nil:
			f.off = "it does not run: see vifproxyctl show"
		case d.Policy == nil || d.Policy.Key() != vm.current.Policy.Key():
			f.Policy, f.note = vm.current.Policy, "these are the last good rules, not those of the file"
			fallthrough
		default:
			proxy = vm.current.proxy
		}
		if f.Policy == nil {
			err = &control.DaemonError{Code: http.StatusConflict, Message: d.Err.Error()}
		} else {
			// As long as it has no proxy, what the fence will be.
			f.uid, f.fence, f.barred = l.Users.UID(d.Addr), l.fenced, l.barredNow()
			if i := slices.IndexFunc(l.inputs.Rules.Files, func(file rules.File) bool { return file.Addr == d.Addr }); i >= 0 {
				f.file = l.inputs.Rules.Files[i]
				f.temporary = l.inputs.TemporaryHosts(f.file)
				f.input = policy.Input{Bind: f.Bind, Binary: l.inputs.Binary, Places: l.inputs.Places, Restarts: l.inputs.Restarts[d.Addr]}
			}
			f.fence.Ports = slices.Concat(f.fence.Ports, f.Config.Connect)
			f.fence.Proxies = append(slices.Clone(f.fence.Proxies), firewall.Proxy{
				UID: f.uid, Holes: policy.Holes(f.Egress), Ports: f.PortNumbers()})
		}
		reply <- answer{err: err}
	})
	if err == nil && proxy != nil {
		clients, err := proxy.Clients()
		if err != nil {
			return f, err
		}
		f.clients = len(clients)
	}
	return f, err
}

// requestFor returns what a browser sends to its proxy for an address that a person has: a URL, or HOST[:PORT].
func requestFor(typed string) (q tinyproxy.Request, err error) {
	address := typed
	if addr, err := netip.ParseAddr(address); err == nil && addr.Is6() { // without brackets its end looks like a port
		address = "[" + address + "]"
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
		if strings.HasSuffix(address, ":80") {
			address = "http://" + strings.TrimPrefix(address, "https://")
		}
	}
	u, err := url.Parse(address)
	if err != nil {
		return q, fmt.Errorf("%.200q is neither a URL nor HOST[:PORT]", typed)
	}
	if port := u.Port(); port != "" && !rules.IsPort(port) {
		return q, fmt.Errorf("%.200q has no port from 1 to 65535 behind the colon", typed)
	}
	h, err := entryFor(u.Hostname())
	if err != nil || h.Below || h.Port != 0 {
		return q, fmt.Errorf("%.200q names no host: give a URL, or HOST[:PORT]", typed)
	}
	q.Host, q.Port = h.Name, 443
	switch u.Scheme {
	case "http":
		q.Port, q.URI = 80, u.RequestURI()
	case "ws":
		q.Port, q.Tunnel = 80, true // browsers make a tunnel for web sockets of both kinds
	case "https", "wss":
		q.Tunnel = true
	default:
		return q, fmt.Errorf("a web proxy does not speak %.20q", u.Scheme)
	}
	if port := u.Port(); port != "" {
		n, _ := strconv.Atoi(port)
		q.Port = uint16(n)
	}
	return q, nil
}

// connectPortStep: a tunnel goes only to the ports that the template names, and to those that the list opens.
func (s *Supervisor) connectPortStep(ctx context.Context, p served, q tinyproxy.Request) (control.Step, error) {
	step := control.Step{Guard: guardPort, Passes: true, Lines: []control.Line{}}
	if !q.Tunnel {
		step.Says = "no tunnel: the request is plain HTTP"
		return step, nil
	}
	port := q.Port
	config, text, err := p.RenderAnywhere()
	if err != nil {
		return step, err
	}
	judge := p.Judge()
	judge.ConnectPorts = tinyproxy.ConnectPorts(text + config.ConnectTo(p.ConnectPorts(s.Egress)))
	step.Passes, err = judge.PortAllowed(ctx, q)
	opened := linesForPort(p.Policy, port)
	for _, e := range p.Egress {
		if e.Port == port {
			opened = append(opened, control.Line{Path: p.RulesPath, Line: e.Line, Text: e.Text})
		}
	}
	switch {
	case !step.Passes:
		step.Says = fmt.Sprintf("no line of the list opens port %d for tunnels (HTTPS), and %s has no ConnectPort %[1]d", port, p.Template.Name())
	case config.AnyPort || slices.Contains(config.Connect, port):
		step.Says = fmt.Sprintf("%s opens port %d for tunnels (HTTPS)", p.Template.Name(), port)
	case len(opened) > 0:
		step.Says, step.Lines = "the port is opened by", opened[:min(len(opened), mostLines)]
	default:
		step.Says = "the port is opened by --egress-allow"
	}
	return step, err
}

// linesForPort returns the first lines that open a port at public addresses.
func linesForPort(p *Policy, port uint16) (lines []control.Line) {
	for _, l := range p.Ports {
		if l.Number == port && len(lines) < mostLines {
			lines = append(lines, control.Line{Path: p.RulesPath, Line: l.Line, Text: l.Text})
		}
	}
	return lines
}

// portLine returns the line that would open the port of a request.
func portLine(p *Policy, q tinyproxy.Request) string {
	if host, err := entryFor(q.Host); err == nil && p.Names && p.Config.Filter.DefaultDeny {
		host.Port = q.Port
		return host.String()
	}
	return fmt.Sprintf("#: port %d", q.Port)
}

// offer says in the step of ConnectPort what opens a port. What that of the fence offers for an address that is not public
// opens it as well.
func offer(steps []control.Step, f served, q tinyproxy.Request) {
	of := func(guard string) *control.Step {
		return &steps[slices.IndexFunc(steps, func(s control.Step) bool { return s.Guard == guard })]
	}
	port, fence := of(guardPort), of(guardFence)
	switch {
	case port.Passes:
	case fence.Passes:
		port.Says += fmt.Sprintf(" (the line `%s` in the rule file opens it)", portLine(f.Policy, q))
	case strings.Contains(fence.Says, "` in the rule file opens it"):
		port.Says += " (the line that opens the fence, below, opens it too)"
	}
}

// rulesStep: the lines of the rule file.
func rulesStep(ctx context.Context, p served, q tinyproxy.Request) (control.Step, error) {
	step := control.Step{Guard: guardRules, Lines: []control.Line{}}
	texts := make([]string, len(p.Rules))
	for i, line := range p.Rules {
		texts[i] = line.Text
	}
	matches, err := p.Judge().Matches(ctx, texts, []tinyproxy.Request{q}, mostLines)
	if err != nil {
		return step, err
	}
	for _, i := range matches[0] {
		line := control.Line{Path: p.RulesPath, Line: p.Rules[i].Number, Text: p.Rules[i].Text}
		if host, temporary := p.Temporary[line.Text]; temporary {
			line.Text = host.String()
		} else if line.Line > 0 {
			line.Text = p.Written[line.Line]
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
