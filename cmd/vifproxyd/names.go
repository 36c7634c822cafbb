package main

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/internal/nameserver"
	"vifproxy/internal/proxies"
	"vifproxy/internal/resolvconf"
	"vifproxy/names/wire"
	"vifproxy/supervisor"
	"vifproxy/tinyproxy/confine"
)

// restartPatience is how long the resolver may not run until that is told: it is started again at once.
const restartPatience = time.Second

// names is the resolver, with what it is told about this machine. Its methods are the loop's, but for those of nameserver.Server.
type names struct {
	*nameserver.Server
	reader   *resolvconf.Reader
	pinHosts bool
	read     *wire.Settings // nil if they were told
	told     wire.Settings
	problem  string // of the reader, as it was told
	unasked  error  // why proxies can ask nobody
	tell     func() // both
}

// startNames starts the resolver. From then on proxies ask it.
func startNames(ctx context.Context, sandbox *confine.Sandbox, confinement control.Confinement, pinner firewall.Pinner,
	p *proxies.Tinyproxies, emitter *events.Emitter, owned func(wire.Event)) (*names, error) {
	server, err := nameserver.Start(ctx, nameserver.Options{
		Program: defaults.Helper("vifproxy-names"), Sandbox: sandbox, Pinner: pinner, Events: emitter, Judge: p.Permits, OnOwned: owned,
	})
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	p.AskNames(server)
	return &names{Server: server, reader: resolvconf.NewReader(resolvconf.Files[0], resolvconf.Files[1]),
		// Without Landlock the C library of a proxy reads hosts(5) itself.
		pinHosts: !slices.Contains(confinement.Applied, "landlock")}, nil
}

// readServers reads what this machine says about names, and returns the name servers.
func (n *names) readServers() ([]netip.Addr, error) {
	settings, err := n.reader.Read()
	settings.PinHosts = n.pinHosts
	n.read = &settings
	unasked := resolvconf.Unasked(settings.Servers, n.pinHosts)
	if problem := n.reader.Problem(); errorText(problem) != n.problem || unasked != n.unasked {
		n.problem, n.unasked = errorText(problem), unasked
		n.tell()
	}
	return settings.Servers, err
}

// errorText returns the text of an error; "" if there is none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// configure tells the resolver what was read. The firewall lets it ask those name servers by now.
func (n *names) configure() {
	if n.read == nil {
		return
	}
	if !reflect.DeepEqual(*n.read, n.told) {
		n.told = *n.read
		n.Configure(n.told)
	}
	n.read = nil
}

// lookUp asks for a name as the daemon itself, which may ask for every name.
func (n *names) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	return n.LookUp(ctx, 0, host)
}

// watch has the supervisor told if the resolver does not run, and what is wrong with hosts(5). It comes before the loop.
func (n *names) watch(s *supervisor.Supervisor) {
	n.tell = func() {
		s.Trouble(events.Impaired, "hosts", n.reader.Problem)
		unasked := n.unasked
		s.Trouble(events.Impaired, "resolv.conf", func() error { return unasked })
	}
	n.OnChange(func() {
		time.AfterFunc(restartPatience, func() { s.Trouble(events.NoResolver, "resolver", n.Problem) })
	})
}

// whyNone returns what the resolver has said of a name that has no address for a proxy's uid.
func (n *names) whyNone(uid uint32, host string) string {
	_, why, _ := n.Why(uid, host)
	return why
}

// whyNoName returns a denied request with what the resolver knows of its name.
func (n *names) whyNoName(d events.Denial) (events.Denial, bool) {
	failure, why, ok := n.Why(d.UID, d.Host)
	if !ok {
		return d, false
	}
	d.What, d.Why = string(failure), why
	if failure == wire.Fence { // it has addresses, and a proxy may not go there
		d.Reason, d.What = events.ReasonConnect, events.FenceRefused
	}
	return d, true
}
