package supervisor

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"vifproxy/firewall"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// Exit is what the fence is to let the proxies of one AppVM do besides the usual.
type Exit struct {
	Addr      netip.Addr
	Holes     []firewall.Hole
	Ports     []uint16 // that the template opens, for all
	Own       []uint16 // that its list opens, for it alone
	Upstreams []tinyproxy.Upstream
}

// exit is what the target may do. As long as another policy serves, both must permit it: a process has no holes
// but its own rules', and what was taken away is closed at once.
func exit(target *Policy, serving *Generation) Exit {
	e := Exit{target.Addr, holes(target.Egress), target.Config.Connect, target.PortNumbers(), target.Config.Upstreams()}
	if serving == nil || serving.Policy.Key() == target.Key() {
		return e
	}
	old := serving.Policy
	e.Holes = common(e.Holes, holes(old.Egress))
	e.Ports = inBoth(e.Ports, old.Config.Connect)
	e.Own = inBoth(e.Own, old.PortNumbers())
	e.Upstreams = inBoth(e.Upstreams, old.Config.Upstreams())
	return e
}

// common is what both lists open: of two networks with a common part, the smaller. It is as wide as a network where one of
// the two is.
func common(a, b []firewall.Hole) (both []firewall.Hole) {
	for _, x := range a {
		for _, y := range b {
			if x.Port == y.Port && x.To.Overlaps(y.To) {
				to := x.To
				if y.To.Bits() > to.Bits() {
					to = y.To
				}
				both = append(both, firewall.Hole{To: to, Port: x.Port, Literal: x.Literal && y.Literal})
			}
		}
	}
	return both
}

func inBoth[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}

// fence puts together what the firewall is to hold besides bindings.
func (l *loop) fence(exits []Exit, now time.Time) firewall.Fence {
	f := firewall.Fence{
		Resolvers: l.inputs.Resolvers, Holes: holes(l.Egress), Proxies: make([]firewall.Proxy, 0, len(exits)),
	}
	f.Leave, f.Barred = l.leave()
	named := make(map[string]bool)
	for _, e := range exits {
		f.Proxies = append(f.Proxies, firewall.Proxy{UID: l.Users.UID(e.Addr), Holes: e.Holes, Ports: e.Own})
		f.Ports = append(f.Ports, e.Ports...)
		for _, up := range e.Upstreams {
			named[up.Host] = true
			_, unnamed := netip.ParseAddr(up.Host)
			for _, addr := range l.addresses(up.Host, now) {
				f.Holes = append(f.Holes, firewall.Hole{
					To: netip.PrefixFrom(addr, addr.BitLen()), Port: up.Port, Literal: unnamed == nil,
				})
			}
		}
	}
	for name := range l.hosts {
		if !named[name] {
			delete(l.hosts, name)
			delete(l.troubles, "upstream "+name)
		}
	}
	return f
}

// holes are what lines open. A single address leads where it says, as a person wrote it; a network never leads to this VM or
// to AppVMs.
func holes(egress []rules.Egress) (all []firewall.Hole) {
	for _, e := range egress {
		all = append(all, firewall.Hole{To: e.To, Port: e.Port, Literal: e.Single()})
	}
	return all
}

const (
	// lookupBound is how long the question for an upstream's addresses may take.
	lookupBound = 10 * time.Second

	// addressMemory is how long an address of an upstream stays open after the last answer that had it.
	addressMemory = 10 * time.Minute

	// mostAddresses is how many addresses of one upstream are open.
	mostAddresses = 64

	// askOften is the time between questions for an upstream that is new, and askOftenFor how long it is new.
	askOften    = time.Second
	askOftenFor = 30 * time.Second
)

// host is a name in the template. tinyproxy asks for its addresses at each connection, and the fence has to know them
// before. A name server that has several may answer with one, another each time. So the daemon asks often at first, then
// every now and then, and what it has heard in the last minutes stays open. If nobody answers, all of it stays.
type host struct {
	seen  map[netip.Addr]time.Time // addresses, and when an answer had them last
	since time.Time                // when the name was new
	again time.Time                // to be asked for; while a question is under way, far in the future
}

// heard takes in an answer, and reports whether other addresses are known now.
func (h *host) heard(addrs []netip.Addr, now time.Time) (changed bool) {
	before := h.addrs()
	for _, addr := range addrs {
		h.seen[addr] = now
	}
	maps.DeleteFunc(h.seen, func(_ netip.Addr, last time.Time) bool { return now.Sub(last) > addressMemory })
	byAge := slices.SortedFunc(maps.Keys(h.seen), func(a, b netip.Addr) int {
		return cmp.Or(h.seen[b].Compare(h.seen[a]), a.Compare(b))
	})
	for _, addr := range byAge[min(len(byAge), mostAddresses):] {
		delete(h.seen, addr)
	}
	return !slices.Equal(before, h.addrs())
}

// addrs returns the known addresses in order.
func (h *host) addrs() []netip.Addr { return slices.SortedFunc(maps.Keys(h.seen), netip.Addr.Compare) }

// addresses returns those of a host that are known, and sees to it that they will be.
func (l *loop) addresses(name string, now time.Time) []netip.Addr {
	if addr, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{addr.Unmap().WithZone("")}
	}
	h := l.hosts[name]
	if h == nil {
		h = &host{seen: map[netip.Addr]time.Time{}, since: now}
		l.hosts[name] = h
	}
	l.lookUp(name, h, now)
	return h.addrs()
}

// askAgain asks for the hosts whose time has come, without a plan: most answers are the old ones.
func (l *loop) askAgain(now time.Time) {
	for name, h := range l.hosts {
		l.lookUp(name, h, now)
	}
}

// lookUp asks for the addresses of a host if it is time.
func (l *loop) lookUp(name string, h *host, now time.Time) {
	if now.Before(h.again) {
		return
	}
	h.again = now.Add(time.Hour)
	beside(l, lookUp(l.life, l.LookUp, name), func(l *loop, a lookedUp) { l.answered(name, a.addrs, a.err) })
}

// lookedUp is an answer to the question for a host's addresses.
type lookedUp struct {
	addrs []netip.Addr
	err   error
}

// lookUp returns what asks for the addresses of a host, for another goroutine.
func lookUp(life context.Context, ask func(context.Context, string) ([]netip.Addr, error), name string) func() lookedUp {
	return func() (a lookedUp) {
		ctx, cancel := context.WithTimeout(life, lookupBound)
		defer cancel()
		a.addrs, a.err = ask(ctx, name)
		for i := range a.addrs {
			a.addrs[i] = a.addrs[i].Unmap().WithZone("")
		}
		return a
	}
}

// answered is the news of a host's addresses.
func (l *loop) answered(name string, addrs []netip.Addr, err error) {
	h, now := l.hosts[name], time.Now()
	if h == nil {
		return // not in the template any more
	}
	h.again = now.Add(l.Interval)
	trouble := "upstream " + name
	if _, ill := l.troubles[trouble]; ill != (err != nil) {
		l.changed = true // for systemd to be told
	}
	if retry := l.troubles.note(l.Events, now, trouble, err); err != nil {
		h.again = retry
		return
	}
	if now.Sub(h.since) < askOftenFor {
		h.again = now.Add(min(askOften, l.Interval))
	}
	if h.heard(addrs, now) {
		l.changed = true
	}
}

// countRefused reads what the fence has counted, while no write is under way. A failure leaves the numbers as they were: they
// are for people.
func (l *loop) countRefused() {
	ctx, cancel := context.WithTimeout(context.Background(), syncBound)
	defer cancel()
	refused, err := l.Firewall.Refused(ctx)
	if l.troubles.note(l.Events, time.Now(), "counters of the firewall", err); err == nil {
		l.refused = refused
	}
}
