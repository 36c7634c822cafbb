package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"vifproxy/tinyproxy"
)

// A Trial is a proxy that gets one request and then ends. Its uid, sandbox, configuration and rules are like those of an
// AppVM's proxy. So the C library that tinyproxy was linked with resolves the name, and the kernel's fence sees a socket of
// that uid. The request ends when the connection is made: the site gets no byte of it.
type Trial struct {
	*Proxy
	tunnel string // HOST:PORT
	heard  *heard
}

// trialName returns the name of the directory of a trial at a port. No AppVM has such a name, so the trial has its own
// directory, which may belong to another user than the AppVM's proxy.
func trialName(port uint16) string { return fmt.Sprintf("+%d", port) }

// Kill ends it at once, and returns when nothing of it is left.
func (t *Trial) Kill() {
	t.Proxy.Kill()
	t.launcher.removeTrial(t.Spec.Name)
}

// removeTrial removes the directory of a trial that has ended, or has not begun.
func (l *Launcher) removeTrial(name string) { _ = l.root().Remove(name) } // one that is not empty is not ours

// Try starts a Trial for a request. It does what Start does, but leaves the AppVM's log alone, and the files that show its
// proxy. The configuration is that of spec without the directives about clients (see tinyproxy.Admits). A request without
// CONNECT is tried as a tunnel too, without ConnectPort and FilterURLs, because otherwise tinyproxy would send the request to
// the site.
func (l *Launcher) Try(ctx context.Context, binary string, spec Spec, r tinyproxy.Request) (*Trial, error) {
	t := &Trial{tunnel: r.Address(), heard: &heard{news: make(chan struct{}, 1)}}
	spec.Name, spec.heard = trialName(spec.Listen.Port()), t.heard.add
	var err error
	t.Proxy, err = l.start(ctx, binary, spec, func(c tinyproxy.Config, text string) string {
		return tinyproxy.TrialText(text, !r.Tunnel && c.Filter.URLs, r.Tunnel)
	})
	if err != nil {
		l.removeTrial(spec.Name)
		return nil, err
	}
	return t, nil
}

// Ask sends the request, from an address of this machine, and waits until it is decided or ctx ends. If ctx ends, the outcome
// is how far the request has come. An error is about the trial, not about the request.
func (t *Trial) Ask(ctx context.Context, from netip.Addr) (tinyproxy.Outcome, error) {
	began := time.Now()
	fail := func(err error) (tinyproxy.Outcome, error) {
		return tinyproxy.Outcome{}, fmt.Errorf("ask the trial of %s: %w", t.Spec.Name, err)
	}
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	conn, err := dialer.DialContext(ctx, "tcp4", t.Spec.Listen.String())
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.0\r\n\r\n", t.tunnel); err != nil {
		return fail(err)
	}
	answered := make(chan int, 1)
	go func() {
		status, err := tinyproxy.ReadStatus(conn)
		if err == nil {
			answered <- status
		}
	}()
	var o tinyproxy.Outcome
	// The log comes through a pipe, possibly after the answer. A failure is logged a second before it is answered.
	var late <-chan time.Time
	for {
		o.Stage, o.Why = t.heard.stage()
		o.Took = time.Since(began)
		switch {
		case o.Stage == tinyproxy.Unknown, o.Stage == tinyproxy.NoAnswer:
			return o, nil
		case o.Stage == tinyproxy.Connected && o.Status != 0:
			return o, nil
		case o.Status == http.StatusOK: // no answer to a tunnel says that but of one that is open, whatever is still in the pipe
			o.Stage = tinyproxy.Connected
			return o, nil
		}
		select {
		case o.Status = <-answered:
			wait := lastLineDelay
			if o.Status >= 500 {
				wait = reasonDelay
			}
			late = time.After(wait)
		case <-t.heard.news:
		case <-late:
			return o, nil
		case <-ctx.Done():
			return o, nil
		case <-t.Done():
			return fail(errors.New("it has ended"))
		}
	}
}

// How much later than the answer a line of the log may come. A failure is always logged, with its reason.
const (
	lastLineDelay = 100 * time.Millisecond
	reasonDelay   = time.Second
)

// heard collects what a Trial has logged.
type heard struct {
	news chan struct{} // something has come

	mu   sync.Mutex
	is   tinyproxy.Stage
	why  string
	line int
}

// heardMax is how many lines of a trial are read. It logs about twenty.
const heardMax = 200

func (h *heard) add(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.line++; h.line > heardMax {
		return
	}
	stage, why, ok := tinyproxy.StageOf(line)
	if !ok || stage <= h.is {
		return
	}
	if h.is == tinyproxy.Unknown {
		return // "Could not connect to upstream proxy" follows
	}
	h.is, h.why = stage, why
	select {
	case h.news <- struct{}{}:
	default:
	}
}

func (h *heard) stage() (tinyproxy.Stage, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.is, h.why
}
