package tinyproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// UpstreamFor is the proxy that tinyproxy asks for a host, if it asks one, by the text of a configuration: upstream_get in
// src/upstream.c of 1.11. The last line whose site matches decides, and it may say none; if there is no such line, the
// first one without a site does.
func UpstreamFor(host, text string) (to Upstream, ok bool) {
	for _, line := range slices.Backward(strings.Split(text, "\n")) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		if len(words) < 2 || !strings.EqualFold(words[0], "upstream") {
			continue
		}
		up, isProxy := parseUpstream(line[len(words[0]):])
		if !isProxy && words[1] != "none" { // in lower case only
			continue
		}
		m := lastArg.FindStringSubmatch(line)
		switch {
		case m == nil:
			to, ok = up, isProxy
		case siteMatches(m[1], host):
			return up, isProxy
		}
	}
	return to, ok
}

// MisleadsUpstream returns the IPv6 address that an expression of a white list stands for, if tinyproxy passes requests for
// it on to an Upstream. tinyproxy does so without brackets (1.11.1, connect_to_upstream in src/reqs.c): the Upstream gets
// "2001:db8::1:443" for [2001:db8::1]:443, which is another address. A compiled line has colons in no other case.
func MisleadsUpstream(expression, text string) (addr netip.Addr, misleads bool) {
	literal := strings.ReplaceAll(strings.Trim(expression, "^$"), `\.`, ".")
	addr, err := netip.ParseAddr(literal)
	if err != nil || !addr.Is6() {
		return addr, false
	}
	_, misleads = UpstreamFor(literal, text)
	return addr, misleads
}

// Misled says what is wrong with an address that MisleadsUpstream returned, and NotMisled what to do.
func Misled(addr netip.Addr) string {
	return fmt.Sprintf("tinyproxy passes %s on to the Upstream without brackets, which reads another address", addr)
}

func NotMisled(addr netip.Addr) string {
	return fmt.Sprintf("name the host, or add `Upstream none \"%s\"` to the template `config`", addr)
}

// siteMatches is hostspec_match in src/hostspec.c. What 1.11 does with a name and a network depends on what happened to
// be on the stack; here they do not match, as was meant.
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
