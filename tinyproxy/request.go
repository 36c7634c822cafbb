package tinyproxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
)

// A Request is what an AppVM may ask of its proxy: a tunnel to a port of a host, or a page.
type Request struct {
	Tunnel bool
	Host   string // an IPv6 address is without brackets
	Port   uint16
	URI    string // path and query of a page, from the slash on
}

// Address returns HOST:PORT, to which the proxy connects if no Upstream does.
func (r Request) Address() string { return net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))) }

// Line returns the request line as a browser sends it, without the version of HTTP.
func (r Request) Line() string {
	if r.Tunnel {
		return http.MethodConnect + " " + r.url()
	}
	return http.MethodGet + " " + r.url()
}

// url returns what a request line has between the method and the version of HTTP.
func (r Request) url() string {
	if r.Tunnel {
		return r.Address()
	}
	host := r.Address()
	if r.Port == 80 {
		host = r.Host
		if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
			host = "[" + host + "]"
		}
	}
	return "http://" + host + r.URI
}

// Compared returns what tinyproxy compares filter lines with (filter_run in process_request, src/reqs.c of 1.11).
func (f Filter) Compared(r Request) string {
	if f.URLs {
		return r.url()
	}
	return r.Host
}

// send sends the request to the tinyproxy at addr, and returns the HTTP status that it answers.
func (r Request) send(ctx context.Context, addr netip.AddrPort) (int, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.0\r\n\r\n", r.Line()); err != nil {
		return 0, err
	}
	return ReadStatus(conn)
}
