package explain

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// RequestFor returns what a browser sends to its proxy for a URL, or HOST[:PORT], that a person has.
func RequestFor(typed string) (r tinyproxy.Request, err error) {
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
		return r, fmt.Errorf("%.200q is neither a URL nor HOST[:PORT]", typed)
	}
	if port := u.Port(); port != "" && !rules.IsPort(port) {
		return r, fmt.Errorf("%.200q has no port from 1 to 65535 behind the colon", typed)
	}
	h, err := entryFor(u.Hostname())
	if err != nil || h.Below || h.Port != 0 {
		return r, fmt.Errorf("%.200q names no host: give a URL, or HOST[:PORT]", typed)
	}
	r.Host, r.Port = h.Name, 443
	switch u.Scheme {
	case "http":
		r.Port, r.URI = 80, u.RequestURI()
	case "ws":
		r.Port, r.Tunnel = 80, true // browsers make a tunnel for web sockets of both kinds
	case "https", "wss":
		r.Tunnel = true
	default:
		return r, fmt.Errorf("a web proxy does not speak %.20q", u.Scheme)
	}
	if port := u.Port(); port != "" {
		n, _ := strconv.Atoi(port)
		r.Port = uint16(n)
	}
	return r, nil
}

// entryFor reads a host as tinyproxy gets it, with an IPv6 address without brackets.
func entryFor(host string) (rules.Host, error) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + host + "]"
	}
	return rules.ParseEntry(host)
}
