package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// requestBound is how long a request of an AppVM may take: longer than a proxy needs to start on a busy
// machine, shorter than anybody waits for a test.
const requestBound = 20 * time.Second

const maxBody = 1 << 20 // bytes of a response that Get keeps

// Dial connects from inside an AppVM. The address is IP:PORT: what an AppVM sends goes through its gateway,
// and names are the proxy's business.
func (l *Lab) Dial(ctx context.Context, vm, network, addr string) (net.Conn, error) {
	return l.dial(ctx, vm, &net.Dialer{}, network, addr)
}

// DialFrom is Dial with a source address that need not be the AppVM's own: a spoofed one. Replies to it go
// where the firewall VM's routes say.
func (l *Lab) DialFrom(ctx context.Context, vm string, from netip.Addr, network, addr string) (net.Conn,
	error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Control: transparent}
	if strings.HasPrefix(network, "udp") {
		d.LocalAddr = &net.UDPAddr{IP: from.AsSlice()}
	}
	return l.dial(ctx, vm, d, network, addr)
}

func (l *Lab) dial(ctx context.Context, vm string, d *net.Dialer, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", vm, err)
	}
	var conn net.Conn
	err := l.DoVM(vm, func() (err error) {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// transparent lets a socket send from addresses that the machine does not own (ip(7), IP_TRANSPARENT).
func transparent(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}); e != nil {
		return e
	}
	return err
}

// Client is an HTTP client inside an AppVM that uses the proxy on the AppVM's gateway and trusts the lab's
// origins. Each request makes a connection of its own; see Get for the status of a refused tunnel.
func (l *Lab) Client(vm string) *http.Client {
	return &http.Client{Transport: l.transport(vm), Timeout: requestBound}
}

func (l *Lab) transport(vm string) *http.Transport {
	return &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) {
			gateway, err := l.gateway(vm)
			return &url.URL{Scheme: "http", Host: net.JoinHostPort(gateway.String(), strconv.Itoa(ProxyPort))}, err
		},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return l.Dial(ctx, vm, network, addr)
		},
		TLSClientConfig:   &tls.Config{RootCAs: l.roots},
		DisableKeepAlives: true,
	}
}

// gateway is what the AppVM has for its gateway now.
func (l *Lab) gateway(vm string) (netip.Addr, error) {
	g, err := l.guest(vm)
	if err != nil {
		return netip.Addr{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if g.using == nil {
		return Gateway, nil
	}
	return g.using.vm.Gateway, nil
}

// Result is what came of a request. Status is the origin's or, where the proxy refused, the proxy's; it is 0
// when none arrived. Err says why there is no page; a status other than 200 is no error by itself.
type Result struct {
	Status int
	Body   string
	Err    error
}

// Get fetches a page from inside an AppVM through its proxy.
func (l *Lab) Get(vm, page string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), requestBound)
	defer cancel()
	return l.Fetch(ctx, vm, "", page)
}

// Fetch is Get for as long as ctx lasts, through the proxy at the address IP:PORT; "" means the one on the
// AppVM's gateway.
func (l *Lab) Fetch(ctx context.Context, vm, proxy, page string) Result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	transport := l.transport(vm)
	// The transport finishes what it has begun, CONNECT included, for a request that nobody waits for any more.
	// Here it ends with the request.
	transport.DialContext = func(_ context.Context, network, addr string) (net.Conn, error) {
		conn, err := l.Dial(ctx, vm, network, addr)
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}
	if proxy != "" {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	}
	var refused atomic.Int32
	connected := func(_ context.Context, _ *url.URL, _ *http.Request, reply *http.Response) error {
		if reply.StatusCode != http.StatusOK {
			refused.Store(int32(reply.StatusCode))
		}
		return nil
	}
	transport.OnProxyConnectResponse = connected
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return Result{Err: err}
	}
	reply, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return Result{Status: int(refused.Load()), Err: err}
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxBody))
	return Result{Status: reply.StatusCode, Body: string(body), Err: err}
}

// Through runs f on a thread in the AppVM behind a vif and tells it the name of the AppVM's end. A socket bound
// to that link (SO_BINDTODEVICE, socket(7)) sends through this vif whichever one the AppVM uses otherwise, so
// that one namespace can play hundreds of AppVMs: attach them under one Name, each with an IP of its own.
func (l *Lab) Through(vif string, f func(nic string) error) error {
	l.mu.Lock()
	v := l.vifs[vif]
	l.mu.Unlock()
	if v == nil {
		return fmt.Errorf("no vif %s in lab %s", vif, l.Name)
	}
	return v.guest.space.do(func() error { return f(v.nic) })
}
