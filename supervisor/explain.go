package supervisor

import (
	"context"
	"net/netip"
	"slices"

	"vifproxy/control"
	"vifproxy/internal/explain"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/upstreams"
)

// Explain says what becomes of a request, under the policy that serves now.
func (s *Supervisor) Explain(ctx context.Context, name, address string) (control.Explanation, error) {
	request, err := explain.RequestFor(address)
	if err != nil {
		return control.Explanation{VM: name}, &control.DaemonError{Fault: control.Invalid, Message: err.Error()}
	}
	subject, err := s.subject(ctx, name)
	if err != nil {
		return control.Explanation{VM: name, Request: request.Line()}, err
	}
	e, err := s.explainer().Explain(ctx, subject, request)
	e.VM = name
	return e, err
}

func (s *Supervisor) explainer() explain.Explainer {
	return explain.Explainer{LookUp: s.lookUpInTime, Attempts: s.config.Connections.Attempts, Beyond: s.config.Connections.Beyond, Try: s.try}
}

// lookUpInTime returns a host's addresses, as tinyproxy gets them when it connects.
func (s *Supervisor) lookUpInTime(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreams.LookUpTimeout)
	defer cancel()
	return s.config.Names.LookUp(ctx, host)
}

// subject returns what the requests of an AppVM meet.
func (s *Supervisor) subject(ctx context.Context, name string) (explain.Subject, error) {
	type served struct {
		explain.Subject
		proxy proxies.Proxy // nil if there is none
	}
	f, err := mailbox.Ask(ctx, s.mail, func(l *loop) (f served, err error) {
		f.Subject, f.proxy, err = l.subject(name)
		return f, err
	})
	if err != nil || f.proxy == nil {
		return f.Subject, err
	}
	clients, err := f.proxy.Clients()
	f.Clients = len(clients)
	return f.Subject, err
}

// subject returns what the requests of an AppVM meet, and the proxy that serves them; nil if there is none.
func (l *loop) subject(name string) (subject explain.Subject, proxy proxies.Proxy, err error) {
	d, err := l.find(name)
	if err != nil {
		return subject, nil, err
	}
	subject.Policy = d.Policy
	switch vm := l.vms[d.Addr]; {
	case d.Held:
		subject.Off = "it is stopped: vifproxyctl start " + name
	case !d.Connected():
		subject.Off = "the AppVM is not connected"
	case vm == nil || vm.current == nil:
		subject.Off = "it does not run: see vifproxyctl show"
	default:
		proxy = vm.current.proxy
		switch {
		case vm.current.Policy.Learns() && d.Policy != nil:
			subject.Note = "a lesson is under way: the AppVM reaches every public host by its name"
		case d.Policy == nil || d.Policy.Key() != vm.current.Policy.Key():
			subject.Policy, subject.Note = vm.current.Policy, "these are the last good rules, not those of the file"
		}
	}
	if subject.Policy == nil {
		return subject, nil, &control.DaemonError{Fault: control.Conflict, Message: d.Err.Error()}
	}
	// As long as it has no proxy, the fence is what it will be.
	subject.UID, subject.Fence, subject.Barred, subject.ForAll = l.Users.UID(d.Addr), l.fenced, l.barredNow(), l.Egress
	if file, ok := l.inputs.Rules.Of(d.Addr); ok {
		subject.File = file
		subject.ForATime = l.inputs.TemporaryHosts(subject.File)
		subject.Input = policy.Input{Bind: subject.Bind, Binary: l.inputs.Binary, Restarts: l.inputs.Restarts[d.Addr], Ceiling: l.inputs.Rules.Ceiling}
	}
	subject.Fence.Ports = slices.Concat(subject.Fence.Ports, subject.Config.ConnectPorts)
	subject.Fence.Proxies = append(slices.Clone(subject.Fence.Proxies), subject.Allowance().Proxy(subject.UID))
	return subject, proxy, nil
}
