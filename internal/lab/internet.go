package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Echo is an origin whose port 443 sends back whatever it gets, without TLS: one end of a tunnel for tests
// that hold one open. Its name is echo.example.
var Echo = netip.MustParseAddr("203.0.113.7")

// outside are the networks whose every address answers in the internet namespace: origin servers on the test
// networks of RFC 5737, and machines on private networks, which a firewall VM reaches through its uplink too
// and which an AppVM's proxy has no business to reach.
var outside = []netip.Prefix{
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("192.0.4.0/22"), // for names with more addresses than those have
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("169.254.0.0/16"),
}

// internet holds the servers of the internet namespace.
type internet struct {
	space     *space
	authority *authority
	names     names

	ctx     context.Context // ends the handlers
	cancel  context.CancelFunc
	closers []io.Closer
	running sync.WaitGroup

	mu      sync.Mutex
	counted sync.Cond // some connection was counted
	closed  bool
	reached map[netip.AddrPort]int
	own     map[string]http.Handler // by host, see Serve
}

func newInternet(name string) (*internet, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("make the authority of the origins: %w", err)
	}
	s, err := newSpace(name)
	if err != nil {
		return nil, err
	}
	in := &internet{space: s, authority: ca, reached: map[netip.AddrPort]int{},
		own: map[string]http.Handler{}}
	in.counted.L = &in.mu
	in.ctx, in.cancel = context.WithCancel(context.Background())
	return in, nil
}

// connect sets up links and addresses, on a thread of the internet namespace.
func (in *internet) connect() error {
	if err := bringUp("lo"); err != nil {
		return err
	}
	if err := bringUp("uplink", uplinkInternet); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, n := range outside {
		// Every address of a network routed as local is the namespace's own (ip-route(8), type local).
		err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(n), Type: unix.RTN_LOCAL,
			Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
		if err != nil {
			return fmt.Errorf("own %v: %w", n, err)
		}
	}
	return nil
}

// serve starts the origin servers on ports 80, 443, 8443 and 22 of all addresses, and the name servers.
func (in *internet) serve() error {
	in.names.set("echo.example", always(Echo))
	err := in.space.do(func() error {
		for _, addr := range append(NameServers[:], OtherNameServer) {
			if err := in.names.listen(addr, Manner{}); err != nil {
				return err
			}
		}
		for port, serve := range map[string]func(net.Listener){
			"80": in.serveHTTP, "443": in.serveHTTPS, "8443": in.serveHTTPS, "22": in.serveSSH,
		} {
			listener, err := net.Listen("tcp4", ":"+port)
			if err != nil {
				return err
			}
			in.closers = append(in.closers, listener)
			in.running.Go(func() { serve(&counter{Listener: listener, in: in}) })
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start the servers of the internet: %w", err)
	}
	return nil
}

func (in *internet) close() {
	in.cancel()
	in.mu.Lock()
	in.closed = true
	in.counted.Broadcast()
	in.mu.Unlock()
	for _, c := range in.closers {
		c.Close()
	}
	in.names.close()
	in.running.Wait()
}

// enter says that something runs which close must wait for; running.Done says that it has ended. It is false
// when close has been called.
func (in *internet) enter() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.closed {
		in.running.Add(1)
	}
	return !in.closed
}

// serveHTTP serves pages until the lab ends. It has no time-outs: a tunnel through which nothing is said stays open however
// slow the machine is.
func (in *internet) serveHTTP(l net.Listener) {
	server := &http.Server{Handler: http.HandlerFunc(in.page), BaseContext: func(net.Listener) context.Context { return in.ctx },
		ErrorLog: log.New(io.Discard, "", 0)} // of clients that leave
	defer context.AfterFunc(in.ctx, func() { server.Close() })()
	server.Serve(l) //nolint:errcheck // it ends when close closes the listener
	server.Close()
}

func (in *internet) serveHTTPS(l net.Listener) {
	plain := &tls.Config{GetCertificate: in.authority.certificate}
	both := &tls.Config{GetCertificate: in.authority.certificate, NextProtos: []string{"h2", "http/1.1"}}
	plain.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name := hello.ServerName
		if name == "" { // the client has an address instead
			name = hello.Conn.LocalAddr().(*net.TCPAddr).IP.String()
		}
		if in.handler(name) != nil {
			return both, nil
		}
		return nil, nil
	}
	in.serveHTTP(tls.NewListener(l, plain))
}

// handler returns who serves a host instead of page, or nil.
func (in *internet) handler(host string) http.Handler {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.own[strings.ToLower(host)]
}

// page is what every origin serves that has no handler of its own: a line that names host and path. /page?needs=URL&needs=URL… is HTML that draws on these
// URLs. /stream sends lines until the client has enough, for tests that need a response that does not end.
func (in *internet) page(w http.ResponseWriter, r *http.Request) {
	if !in.enter() {
		return
	}
	defer in.running.Done()
	name := r.Host
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	if own := in.handler(name); own != nil {
		own.ServeHTTP(w, r)
		return
	}
	switch r.URL.Path {
	case "/page":
		fmt.Fprintf(w, "<!DOCTYPE html><title>hello from %s</title>\n", html.EscapeString(name))
		for _, needed := range r.URL.Query()["needs"] {
			fmt.Fprintf(w, "<script src=\"%s\"></script>\n", html.EscapeString(needed))
		}
		return
	case "/stream":
	default:
		fmt.Fprintf(w, "hello from %s, page %s\n", name, r.URL.Path)
		return
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "line %d from %s\n", n, name); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// serveSSH greets as an SSH server does and says nothing more. Who sees the greeting got through.
func (in *internet) serveSSH(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		in.hold(conn, func() {
			if _, err := io.WriteString(conn, "SSH-2.0-vifproxylab\r\n"); err == nil {
				io.Copy(io.Discard, conn) //nolint:errcheck // until either side closes
			}
		})
	}
}

// hold runs f with a connection, which ends at the latest when the internet does.
func (in *internet) hold(conn net.Conn, f func()) {
	if !in.enter() {
		conn.Close()
		return
	}
	go func() {
		defer in.running.Done()
		defer conn.Close()
		defer context.AfterFunc(in.ctx, func() { conn.Close() })()
		f()
	}()
}

// counter counts connections by the address they were made to.
type counter struct {
	net.Listener
	in *internet
}

func (c *counter) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		to := conn.LocalAddr().(*net.TCPAddr).AddrPort()
		c.in.mu.Lock()
		c.in.reached[to]++
		c.in.counted.Broadcast()
		c.in.mu.Unlock()
		switch {
		case to.Addr().IsLoopback(): // only to be counted, see Reached
			conn.Close()
		case to == netip.AddrPortFrom(Echo, 443):
			c.in.hold(conn, func() { io.Copy(conn, conn) }) //nolint:errcheck // until either side closes
		default:
			return conn, nil
		}
	}
}

// Reached says how many connections an origin has got, up to now and from anywhere. The host is a name that
// Host knows or an address; port 0 means all ports.
func (l *Lab) Reached(host string, port uint16) (int, error) { return l.net.count(host, port) }

func (in *internet) count(host string, port uint16) (int, error) {
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, a)
	} else {
		addrs, _, _ = in.names.lookup(host)
	}
	n := 0
	for _, p := range []uint16{22, 80, 443} {
		if port != 0 && p != port {
			continue
		}
		if err := in.settle(p); err != nil {
			return 0, fmt.Errorf("count connections to %s: %w", host, err)
		}
		in.mu.Lock()
		for _, a := range addrs {
			n += in.reached[netip.AddrPortFrom(a, p)]
		}
		in.mu.Unlock()
	}
	return n, nil
}

// settle waits until every connection made to a port before now is counted: a listener's queue is first in,
// first out, so it makes one more, to a loopback address that nobody else reaches, and waits for that.
func (in *internet) settle(port uint16) error {
	probe := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	in.mu.Lock()
	before := in.reached[probe]
	in.mu.Unlock()
	err := in.space.do(func() error {
		conn, err := net.DialTimeout("tcp4", probe.String(), 5*time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.reached[probe] == before && !in.closed {
		in.counted.Wait()
	}
	return nil
}

// Serve has a handler serve the pages of a host, a name or an address. With HTTPS this host offers HTTP/2 too.
func (l *Lab) Serve(host string, handler http.Handler) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.net.own[strings.ToLower(host)] = handler
}
