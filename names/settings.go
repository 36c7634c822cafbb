package names

import (
	"net/netip"
	"slices"
	"time"

	"vifproxy/names/ask"
	"vifproxy/names/wire"
)

const (
	// serverPort is where name servers listen.
	serverPort = 53
	// hostsTTL is how long an answer from hosts(5) is good.
	hostsTTL = time.Minute
	// hostsInterval is the time between looks whether what is pinned of hosts(5) stays pinned.
	hostsInterval = 20 * time.Minute
)

// settings are what the machine says about names.
type settings struct {
	config   ask.Config
	hosts    map[string][]netip.Addr // by name in lower case: addresses of one family, those of IPv4 if there are some
	pinHosts bool
	// domains are in lower case. The C library of a proxy appends them: that of the host name if it cannot read resolv.conf, and those
	// of resolv.conf otherwise (__res_vinit in resolv/res_init.c of glibc 2.36).
	domains []string
}

func newSettings(w *wire.Settings) *settings {
	s := &settings{config: ask.Config{Search: w.Search, Dots: w.Dots}, hosts: map[string][]netip.Addr{}, pinHosts: w.PinHosts}
	for _, addr := range w.Servers {
		s.config.Servers = append(s.config.Servers, netip.AddrPortFrom(addr, serverPort))
	}
	for _, domain := range append(slices.Clone(w.Search), w.Domain) {
		if domain = plain(domain); domain != "" && !slices.Contains(s.domains, domain) {
			s.domains = append(s.domains, domain)
		}
	}
	for _, h := range w.Hosts {
		addr := h.Addr.WithZone("").Unmap()
		for _, name := range h.Names {
			if addrs := s.hosts[plain(name)]; addr.IsValid() && !slices.Contains(addrs, addr) {
				s.hosts[plain(name)] = append(addrs, addr)
			}
		}
	}
	for name, addrs := range s.hosts {
		if slices.ContainsFunc(addrs, netip.Addr.Is4) {
			s.hosts[name] = slices.DeleteFunc(addrs, netip.Addr.Is6)
		}
	}
	return s
}
