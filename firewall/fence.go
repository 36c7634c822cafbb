package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Fence says where proxies may connect to. An attacker who owns a tinyproxy sends anything, and a listed name may resolve to any
// address. So the kernel looks at the uid of the socket. It refuses, with a reset, what the Fence does not say, unless it
// answers a connection that was made to the proxy:
//
//   - a question for a name goes to the resolver (see Asker), and the resolver's own to the name servers, UDP and TCP;
//   - TCP goes to the ports, at public addresses: not to the firewall VM itself, AppVMs, and networks that are private,
//     link-local, multicast or reserved. A connection begins only to an address that is pinned for the proxy (see Pinner) or that its
//     list names;
//   - TCP goes there to ports of the proxy's own as well;
//   - TCP goes through openings, wherever they lead.
type Fence struct {
	Resolvers []netip.Addr // the name servers
	Ports     []uint16     // open everywhere, in addition to 80 and 443
	Openings  []Opening    // of every proxy
	Proxies   []Proxy
	Leave     []string // interfaces by which proxies may leave, DNS included; none: any
	Barred    []string // interfaces by which they may not, DNS included: what AppVMs send is not forwarded there
}

// A Proxy is all processes of one uid. The fence counts what it refuses to them. Openings and ports may be for it alone.
type Proxy struct {
	UID      uint32
	Openings []Opening
	Ports    []uint16 // open to it in addition to those that are open everywhere, at public addresses only

	Listed     []netip.Addr // public addresses that its list names: open as if they were pinned, always
	AnyAddress bool         // all public addresses are open: its list permits more addresses than can be listed
}

// plain reports whether the proxy has nothing of its own.
func (p Proxy) plain() bool {
	return len(p.Openings) == 0 && len(p.Ports) == 0 && len(p.Listed) == 0 && !p.AnyAddress
}

// An Opening opens a network to TCP.
//
// Literal openings are single addresses that a person wrote, and reach them wherever they are. All others, networks and
// addresses that come from DNS, never reach own addresses, loopback, link-local addresses, or what is behind a vif.
type Opening struct {
	To      netip.Prefix
	Port    uint16 // 0: those that are open everywhere
	Literal bool
}

// forbidden are networks to which only an opening leads, from the registries of IANA for special purposes
// (RFC 6890). The networks for documentation are not among them, because nobody is there, nor those in which public machines
// answer, such as those of AS112. If an address is in several, explanations name the first of them.
var forbidden = prefixes(
	"0.0.0.0/8",      // this host
	"10.0.0.0/8",     // private (RFC 1918)
	"100.64.0.0/10",  // behind a provider's NAT (RFC 6598)
	"127.0.0.0/8",    // loopback
	"169.254.0.0/16", // link-local; cloud providers' metadata
	"172.16.0.0/12",  // private
	"192.0.0.0/24",   // protocol assignments
	"192.88.99.0/24", // relays of 6to4, once (RFC 7526)
	"192.168.0.0/16", // private
	"198.18.0.0/15",  // benchmarks
	"224.0.0.0/3",    // multicast, reserved, broadcast

	"::/8",      // this host, loopback, IPv4 in IPv6, NAT64 (RFC 6052, RFC 8215)
	"100::/62",  // discarded (RFC 6666), dummies (RFC 9780)
	"2001::/23", // protocol assignments: Teredo, benchmarks, relays of multicast, identifiers that are no addresses (RFC 7343, RFC 9374)
	"2002::/16", // 6to4: IPv4 in IPv6 again
	"5f00::/16", // segments of SRv6 (RFC 9602)
	"fc00::/7",  // private (RFC 4193)
	"fe80::/10", // link-local
	"fec0::/10", // private once
	"ff00::/8",  // multicast
	"::/3",      // and all but 2000::/3, which is what IANA gives to machines that the world reaches
	"4000::/2",
	"8000::/1",
)

// own are networks to which only a literal opening leads: this host, its links, and everybody on them. So does whatever the
// routing tables call its own, and what is behind a vif.
var own = prefixes(
	"0.0.0.0/8",
	"127.0.0.0/8",
	"169.254.0.0/16",
	"224.0.0.0/3",

	"::/8",
	"2002::/24", // the same in 6to4
	"2002:7f00::/24",
	"2002:a9fe::/32",
	"fe80::/10",
	"ff00::/8",
)

// Own returns the networks that only a literal opening reaches.
func Own() []netip.Prefix { return slices.Clone(own) }

// Forbidden returns the networks that only an opening reaches, none of which is in another one.
func Forbidden() []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(forbidden), func(inner netip.Prefix) bool {
		return slices.ContainsFunc(forbidden, func(outer netip.Prefix) bool { return outer.Bits() < inner.Bits() && outer.Overlaps(inner) })
	})
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// normalFence returns the fence in a fixed order, so that equal fences compare equal, or an error if the fence cannot be.
func (c Config) normalFence(f Fence) (Fence, error) {
	for _, r := range f.Resolvers {
		if !r.IsValid() || r.Zone() != "" || r.Is4In6() {
			return f, fmt.Errorf("fence: %v is no address of a resolver", r)
		}
	}
	f.Resolvers = sortedUnique(f.Resolvers, netip.Addr.Compare)
	f.Ports = sortedUnique(append([]uint16{80, 443}, f.Ports...), cmp.Compare)
	if f.Ports[0] == 0 {
		return f, fmt.Errorf("fence: 0 is no port")
	}
	for _, names := range []*[]string{&f.Leave, &f.Barred} {
		*names = sortedUnique(*names, strings.Compare)
		for _, name := range *names {
			if name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsRune(name, 0) {
				return f, fmt.Errorf("fence: %q is no name of an interface", name)
			}
		}
	}
	var err error
	if f.Openings, err = normalOpenings(f.Openings); err != nil {
		return f, err
	}
	f.Proxies, err = c.normalProxies(f.Proxies)
	return f, err
}

// normalProxies returns the proxies that have something of their own. The kernel makes the others' counters when they are needed.
func (c Config) normalProxies(all []Proxy) (own []Proxy, err error) {
	byUID := func(a, b Proxy) int { return cmp.Compare(a.UID, b.UID) }
	if !slices.IsSortedFunc(all, byUID) {
		all = slices.SortedFunc(slices.Values(all), byUID)
	}
	for i, p := range all {
		if p.UID < c.FirstUID || p.UID > c.LastUID {
			return nil, fmt.Errorf("fence: uid %d is outside the fenced range %d-%d", p.UID, c.FirstUID, c.LastUID)
		}
		if i > 0 && all[i-1].UID == p.UID {
			return nil, fmt.Errorf("fence: uid %d twice", p.UID)
		}
		if p.plain() { // usually
			continue
		}
		if p.Ports = sortedUnique(p.Ports, cmp.Compare); len(p.Ports) > 0 && p.Ports[0] == 0 {
			return nil, fmt.Errorf("fence: 0 is no port")
		}
		if p.Openings, err = normalOpenings(p.Openings); err != nil {
			return nil, err
		}
		for _, addr := range p.Listed {
			if !Public(addr) {
				return nil, fmt.Errorf("fence: %v of uid %d is no public address", addr, p.UID)
			}
		}
		p.Listed = sortedUnique(p.Listed, netip.Addr.Compare)
		if own == nil {
			own = make([]Proxy, 0, len(all)-i)
		}
		own = append(own, p)
	}
	return own, nil
}

func normalOpenings(openings []Opening) ([]Opening, error) {
	for _, h := range openings {
		if !h.To.IsValid() || h.To != h.To.Masked() || h.To.Addr().Is4In6() {
			return nil, fmt.Errorf("fence: %v is no network", h.To)
		}
		if h.Literal && !h.To.IsSingleIP() {
			return nil, fmt.Errorf("fence: %v is no single address", h.To)
		}
	}
	return sortedUnique(openings, func(a, b Opening) int {
		return cmp.Or(a.To.Addr().Compare(b.To.Addr()), cmp.Compare(a.To.Bits(), b.To.Bits()), cmp.Compare(a.Port, b.Port),
			literalFirst(a, b))
	}), nil
}

func literalFirst(a, b Opening) int {
	switch {
	case a.Literal == b.Literal:
		return 0
	case a.Literal:
		return -1
	}
	return 1
}

// WithPorts returns the same openings with one port each.
func (f Fence) WithPorts(openings []Opening) (all []Opening) {
	for _, h := range openings {
		for _, port := range f.portsOf(h) {
			all = append(all, Opening{h.To, port, h.Literal})
		}
	}
	return all
}

// Disjoint returns the openings without those inside of another of the same port and class: in a set of the kernel, intervals must
// not overlap.
func Disjoint(openings []Opening) []Opening {
	// The wider of two that begin alike comes first, and what is inside of a network follows it.
	openings = slices.SortedFunc(slices.Values(openings), func(a, b Opening) int {
		return cmp.Or(literalFirst(a, b), cmp.Compare(a.Port, b.Port), a.To.Addr().Compare(b.To.Addr()), cmp.Compare(a.To.Bits(), b.To.Bits()))
	})
	kept := openings[:0]
	for _, h := range openings {
		if n := len(kept); n == 0 || kept[n-1].Port != h.Port || kept[n-1].Literal != h.Literal || !kept[n-1].To.Overlaps(h.To) {
			kept = append(kept, h)
		}
	}
	return kept
}

// portsOf returns the ports of an opening.
func (f Fence) portsOf(h Opening) []uint16 {
	if h.Port != 0 {
		return []uint16{h.Port}
	}
	return f.Ports
}
