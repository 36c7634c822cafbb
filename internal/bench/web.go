package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/bench/peers"
	"vifproxy/internal/lab"
)

// The web that is asked for: an address, so that no name server is part of a page, and the hosts of a page for a browser.
const (
	webHost   = "203.0.113.129"
	pageHosts = "page.example" // below it
)

// A page of the usual size, and a long download.
const (
	pageSize     = 20_000
	downloadSize = 200 << 20
)

// A way is how an AppVM gets at the web.
type way struct {
	name  string
	lab   *lab.Lab
	proxy netip.AddrPort // the zero AddrPort is no proxy
}

// ways are those that are compared. The AppVM of each has a vif as Xen brings it: packets have 1500 bytes, and a veth pair passes
// segments on whole, as netback and netfront do (SG, IP_CSUM and TSO in drivers/net/xen-netback/interface.c, Linux 6.18; Qubes leaves
// them on since qubes-core-agent-linux 045e85eb of 2022).
type ways struct {
	daemon, hand way
	others       []way
	notes        []string // why others are not there, and how AppVMs get to vifproxyd's proxies
	close        func()
}

const byHandName, squidName, noProxy = "tinyproxy by hand", "squid", "no proxy"

// ways starts the peers in a firewall VM without vifproxyd, and lists the web in one with it. The caller closes them.
func (b *bench) ways() (w ways, err error) {
	s, err := b.inhabited(1)
	if err != nil {
		return w, err
	}
	alone, err := b.alone()
	if err != nil {
		return w, err
	}
	for _, l := range []*lab.Lab{s.Lab, alone.Lab} {
		l.Serve(webHost, http.HandlerFunc(serveBytes))
	}
	if err := errors.Join(s.save(0, "#: format domains", webHost, "*."+pageHosts), s.untilAtRest(b.ctx)); err != nil {
		return w, err
	}
	status, err := s.control.Status(b.ctx)
	if err != nil {
		return w, err
	}
	if board := status.Setup.Switchboard; board.Used {
		w.notes = append(w.notes, "vifproxyd uses the switchboard")
	} else {
		w.notes = append(w.notes, "vifproxyd uses nat: "+board.Why)
	}
	var ends []func()
	w.close = func() {
		for _, end := range ends {
			end()
		}
	}
	w.daemon = way{"vifproxyd", s.Lab, netip.AddrPortFrom(lab.Gateway, lab.ProxyPort)}
	for i, kind := range []peers.Kind{peers.Tinyproxy, peers.Squid, peers.Privoxy} {
		there := way{kind.Name, alone.Lab, netip.AddrPortFrom(lab.Gateway, uint16(lab.ProxyPort+1+i))}
		end, err := kind.Start(b.ctx, alone.Lab, peers.Setup{Dir: filepath.Join(alone.dir, kind.Name), Listen: there.proxy,
			Client: addr(0), Hosts: []string{webHost, pageHosts}})
		switch {
		case errors.Is(err, peers.ErrMissing) && kind.Name != peers.Tinyproxy.Name:
			w.notes = append(w.notes, err.Error())
		case err != nil:
			w.close()
			return w, err
		case kind.Name == peers.Tinyproxy.Name:
			w.hand, ends = way{byHandName, there.lab, there.proxy}, append(ends, end)
		default:
			w.others, ends = append(w.others, there), append(ends, end)
		}
	}
	w.others = append(w.others, way{name: noProxy, lab: alone.Lab})
	return w, nil
}

// alone is a firewall VM with Qubes' rules and without vifproxyd, and an AppVM that may connect to what listens there.
func (b *bench) alone() (*site, error) {
	return b.site("alone", func(s *site) error {
		return errors.Join(s.Attach(s.vm(0)), s.admit(b.ctx))
	})
}

// admit lets AppVMs connect to the proxy port itself and the next few, which nobody redirects where there is no daemon.
func (s *site) admit(ctx context.Context) error {
	ports := fmt.Sprintf("%d-%d", lab.ProxyPort, lab.ProxyPort+9)
	rule := []string{"add", "rule", "ip", "qubes", "custom-input", "tcp", "dport", ports, "accept"}
	if out, err := s.Command(ctx, "nft", rule...).CombinedOutput(); err != nil {
		return fmt.Errorf("nft %s: %w: %s", strings.Join(rule, " "), err, out)
	}
	return nil
}

// serveBytes answers as servers in Go do: /?bytes=N is so many, in chunks of at most 1 MiB. It says nothing of how many they
// are, so header and page are records of their own in TLS.
func serveBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("bytes"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for chunk := make([]byte, min(n, 1<<20)); n > 0; n -= len(chunk) {
		if _, err := w.Write(chunk[:min(n, len(chunk))]); err != nil {
			return
		}
	}
}

// compare measures something by all ways, by turns; the floor is tinyproxy by hand.
func (b *bench) compare(unit string, runs int, measure func(w way) (float64, error)) (o outcome, err error) {
	w, err := b.ways()
	if err != nil {
		return o, err
	}
	defer w.close()
	by := func(w way) func() (float64, error) { return func() (float64, error) { return measure(w) } }
	var besides []peer
	for _, other := range w.others {
		besides = append(besides, peer{other.name, by(other)})
	}
	o, err = b.byTurns(unit, runs, by(w.hand), by(w.daemon), besides...)
	o.notes = append(o.notes, w.notes...)
	return o, err
}

// https measures a page over HTTP/1.1 from a new tunnel on, and httpsH2 the same over HTTP/2.
func (b *bench) https() (outcome, error)   { return b.pages(1) }
func (b *bench) httpsH2() (outcome, error) { return b.pages(2) }

func (b *bench) pages(version int) (outcome, error) {
	const each = 5
	o, err := b.compare("ms", b.Runs, func(w way) (float64, error) {
		var took []float64
		for range each {
			t, err := w.get(b.ctx, pageSize, version)
			if err != nil {
				return 0, err
			}
			took = append(took, milliseconds(t))
		}
		return median(took), nil
	})
	o.note("each run is the median of %d pages", each)
	return o, err
}

// download measures one long answer in a tunnel.
func (b *bench) download() (outcome, error) {
	return b.compare("MiB/s", max(1, b.Runs/4), func(w way) (float64, error) {
		t, err := w.get(b.ctx, downloadSize, 1)
		return downloadSize / (1 << 20) / t.Seconds(), err
	})
}

// get fetches so many bytes over HTTPS by a connection of its own, and returns how long that took.
func (w way) get(ctx context.Context, bytes, version int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(w.lab.CA)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true, ForceAttemptHTTP2: version == 2,
		DialContext: func(ctx context.Context, network, to string) (net.Conn, error) {
			conn, err := w.lab.Dial(ctx, crowd, network, to)
			if err == nil {
				err = segmented(conn)
			}
			return conn, err
		},
	}
	if w.proxy.IsValid() {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: w.proxy.String()})
	}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s/?bytes=%d", webHost, bytes), nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	reply, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	n, err := io.Copy(io.Discard, reply.Body)
	took := time.Since(began)
	if err == nil && (reply.StatusCode != http.StatusOK || n != int64(bytes) || reply.ProtoMajor != version) {
		err = fmt.Errorf("answer %s %s with %d bytes", reply.Proto, reply.Status, n)
	}
	return took, err
}

// ethernet is the most that a segment of TCP has where packets have 1500 bytes.
const ethernet = 1460

// segmented is an error if a connection has longer segments than one by a vif: on loopback they have 64 kB, and nothing that is
// said of throughput there holds elsewhere.
func segmented(conn net.Conn) error {
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var size int
	var problem error
	if err := raw.Control(func(fd uintptr) {
		size, problem = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	}); err != nil {
		return err
	}
	if problem == nil && size > ethernet {
		problem = fmt.Errorf("segments have %d bytes: this is no vif", size)
	}
	return problem
}
