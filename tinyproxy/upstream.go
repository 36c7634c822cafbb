package tinyproxy

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An Upstream is another proxy, by address or by name.
type Upstream struct {
	Host string
	Port uint16
}

// A Route is a line of Upstream. It says through which proxy requests for a site go.
type Route struct {
	Site string   // a host, .NAME, an address or a network; "" for all hosts
	To   Upstream // the zero Upstream if the line says none
}

// upstreamArg is `http HOST:PORT ["SITE"]`, with socks4 and socks5 in the place of http and USER:PASSWORD@ before the host,
// or without a type as old versions had it. A password may contain blanks (PASSWORD in src/conf.c of 1.11).
var upstreamArg = regexp.MustCompile(`(?i)^[ \t]+(?:(?:http|socks4|socks5)[ \t]+)?(?:.*@)?` +
	`(?:\[([^]]+)\]|([^][ \t:@"]+)):([0-9]+)(?:[ \t]+"([^"]+)")?$`)

// noUpstream is the argument with which a site has none. In another case than this tinyproxy passes it over, and logs a warning.
var noUpstream = regexp.MustCompile(`^[ \t]+none[ \t]+"([^"]+)"$`)

// parseUpstream reads the argument of Upstream. It is stricter than tinyproxy, whose expression is `A|B`, with A bound to the beginning of
// the argument and B to its end: so 1.11.1 takes anything behind `none "SITE"`, and anything before `http HOST:PORT`. It makes another
// port of one that is too large, and passes over port 0.
func parseUpstream(arg string) (r Route, ok bool) {
	if m := noUpstream.FindStringSubmatch(arg); m != nil {
		return Route{Site: strings.Clone(m[1])}, true
	}
	if words := strings.Fields(arg); len(words) > 0 && strings.EqualFold(words[0], "none") {
		return r, false
	}
	if m := upstreamArg.FindStringSubmatch(arg); m != nil {
		n, err := strconv.ParseUint(m[3], 10, 16)
		if err == nil && n != 0 {
			return Route{To: Upstream{strings.Clone(m[1] + m[2]), uint16(n)}, Site: strings.Clone(m[4])}, true
		}
	}
	return r, false
}

// Upstreams returns the proxies that requests are passed on to.
func (c Config) Upstreams() (all []Upstream) {
	for _, r := range c.Routes {
		if r.To != (Upstream{}) {
			all = append(all, r.To)
		}
	}
	return all
}

// ComparesURLs reports whether lines of a white list have to be compared with whole URLs: an Upstream gets those, and a filter of hosts
// sees a part of them (connect_to_upstream in src/reqs.c of tinyproxy 1.11).
func (c Config) ComparesURLs() bool {
	return c.Filter.Enabled && c.Filter.AllowsByLine() && len(c.Upstreams()) > 0
}

// AllUpstream reports whether tinyproxy passes all requests on, and connects to no host itself; see UpstreamFor.
func (c Config) AllUpstream() bool {
	all := slices.IndexFunc(c.Routes, func(r Route) bool { return r.Site == "" })
	return all >= 0 && c.Routes[all].To != Upstream{} &&
		!slices.ContainsFunc(c.Routes, func(r Route) bool { return r.Site != "" && r.To == Upstream{} })
}

// Names returns the names that tinyproxy asks for whatever a request says, sorted: those of Upstreams, and those of Allow and Deny,
// which it compares with the client's address at each connection (acl_string_processing in src/acl.c of 1.11).
func (c Config) Names() []string {
	all := slices.Clone(c.AccessNames)
	for _, up := range c.Upstreams() {
		if _, err := netip.ParseAddr(up.Host); err != nil {
			all = append(all, up.Host)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// UpstreamFor returns the proxy that tinyproxy asks for a host, if it asks one: upstream_get in src/upstream.c of 1.11. The
// last line whose site matches decides, and it may say none. If there is no such line, the first one without a site does.
func (c Config) UpstreamFor(host string) (to Upstream, ok bool) {
	for _, r := range slices.Backward(c.Routes) {
		switch {
		case r.Site == "":
			to = r.To
		case siteMatches(r.Site, host):
			return r.To, r.To != Upstream{}
		}
	}
	return to, to != Upstream{}
}

// MisleadsUpstream returns the IPv6 address that an expression of a white list stands for, and reports whether tinyproxy
// passes requests for it on to an Upstream. It does so without brackets (1.11.1, connect_to_upstream in src/reqs.c): for
// [2001:db8::1]:443 the Upstream gets "2001:db8::1:443", which is another address. A compiled line has colons in no other
// case.
func (c Config) MisleadsUpstream(expression string) (addr netip.Addr, misleads bool) {
	literal := strings.ReplaceAll(strings.Trim(expression, "^$"), `\.`, ".")
	addr, err := netip.ParseAddr(literal)
	if err != nil || !addr.Is6() {
		return addr, false
	}
	_, misleads = c.UpstreamFor(literal)
	return addr, misleads
}

// Misled returns what is wrong with an address that MisleadsUpstream returned, and NotMisled what to do about it.
func Misled(addr netip.Addr) string {
	return fmt.Sprintf("tinyproxy passes %s on to the Upstream without brackets, which reads another address", addr)
}

func NotMisled(addr netip.Addr) string {
	return fmt.Sprintf("name the host, or add `Upstream none \"%s\"` to the template `config`", addr)
}

// siteMatches does what hostspec_match in src/hostspec.c does. If the site is a network and the host a name, the result of
// 1.11 depends on what is on the stack. Here they do not match, as was meant.
func siteMatches(site, host string) bool {
	addr, err := netip.ParseAddr(host)
	isName := err != nil
	text, mask, masked := strings.Cut(site, "/")
	network, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		below := site[0] == '.' && len(host) >= len(site) && strings.EqualFold(host[len(host)-len(site):], site)
		return isName && !masked && (below || strings.EqualFold(host, site))
	case isName:
		return false
	case !masked:
		return addr == network
	}
	if dotted, err := netip.ParseAddr(mask); err == nil && dotted.Is4() {
		ones, bits := net.IPMask(dotted.AsSlice()).Size()
		if bits == 0 {
			return false
		}
		mask = strconv.Itoa(ones)
	}
	p, err := netip.ParsePrefix(text + "/" + mask)
	return err == nil && p.Contains(addr)
}
