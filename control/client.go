package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"vifproxy/internal/events"
)

// A Client asks a running vifproxyd. Its verbs are those of [Service]. They return a *NotRunningError, a *PermissionError, a
// *DaemonError (what the daemon said), or another error if the conversation broke off.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client that connects to the socket at this path for each verb.
func NewClient(socket string) *Client {
	return &Client{socket, http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// NotRunningError says that no daemon listens on the socket.
type NotRunningError struct {
	Socket string
	Err    error
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("vifproxyd is not running (%s: %v): start it with `systemctl start vifproxyd`",
		e.Socket, e.Err)
}

// PermissionError says that this user may not use the socket.
type PermissionError struct {
	Socket string
	Err    error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("permission denied on %s (%v): run as root (sudo), or as a member of the group that"+
		" vifproxyd was given with --socket-group", e.Socket, e.Err)
}

// statusTimeout bounds the one question that is always answered at once. Other verbs may take long: see whileItAnswers.
const statusTimeout = 10 * time.Second

var errHangs = fmt.Errorf("vifproxyd has not answered for %v: see `journalctl -u vifproxyd`", statusTimeout)

// Status asks how things stand.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTimeout, errHangs)
	defer cancel()
	return c.do(ctx, http.MethodGet, "status", noRequest{})
}

// AppVMs asks the same without having anything counted: what is shown as refused may be old.
func (c *Client) AppVMs(ctx context.Context) (Status, error) {
	return c.do(ctx, http.MethodGet, "appvms", noRequest{})
}

// Update makes the daemon read everything again, and waits until it is in force.
func (c *Client) Update(ctx context.Context) (Status, error) {
	return c.do(ctx, http.MethodPost, "update", noRequest{})
}

// Start gives the named VMs their proxies again.
func (c *Client) Start(ctx context.Context, names []string) (Status, error) {
	return c.do(ctx, http.MethodPost, "start", namesRequest{names})
}

// Stop takes the proxies of the named VMs away until Start or Restart.
func (c *Client) Stop(ctx context.Context, names []string) (Status, error) {
	return c.do(ctx, http.MethodPost, "stop", namesRequest{names})
}

// Restart gives new proxies to the named VMs.
func (c *Client) Restart(ctx context.Context, names []string) (Status, error) {
	return c.do(ctx, http.MethodPost, "restart", namesRequest{names})
}

// KillAll ends all proxies. With restart it starts all of them again; without, no VM has one until Start.
func (c *Client) KillAll(ctx context.Context, restart bool) (Status, error) {
	return c.do(ctx, http.MethodPost, "kill-all", killRequest{restart})
}

// Allow lets a VM reach hosts for a time, or takes that back.
func (c *Client) Allow(ctx context.Context, t Temporary) (Status, error) {
	return c.do(ctx, http.MethodPost, "allow", t)
}

// Explain asks whether a request would pass, and why.
func (c *Client) Explain(ctx context.Context, name, url string) (e Explanation, err error) {
	err = c.ask(ctx, http.MethodPost, "explain", explainRequest{name, url}, &e)
	return e, err
}

// Denied asks which requests of the named VMs, or of all, were refused or failed since then.
func (c *Client) Denied(ctx context.Context, names []string, since time.Time) ([]events.Denied, error) {
	var all []events.Denied
	err := c.ask(ctx, http.MethodGet, "denied", deniedRequest{names, since}, &all)
	return all, err
}

// Caller asks for the list that an AppVM has for itself.
func (c *Client) Caller(ctx context.Context, name string) (Status, error) {
	return c.do(ctx, http.MethodGet, "caller", callerRequest{name})
}

// Watch calls each for what happens, until ctx ends, each fails, or the daemon has gone. It never returns nil.
func (c *Client) Watch(ctx context.Context, names []string, each func(events.Event) error) error {
	return follow(ctx, c, http.MethodGet, "watch", namesRequest{names}, each)
}

// Refusals calls each for what the list of an AppVM refuses, until ctx ends, each fails, the list is gone, or the daemon has gone. It
// never returns nil.
func (c *Client) Refusals(ctx context.Context, name string, each func(Refusal) error) error {
	return follow(ctx, c, http.MethodGet, "refusals", callerRequest{name}, each)
}

// follow calls each for every line of a stream.
func follow[T any](ctx context.Context, c *Client, method, verb string, request any, each func(T) error) error {
	stream, err := c.open(ctx, method, verb, request)
	if err != nil {
		return err
	}
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var line T
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("cannot parse vifproxyd's reply: %w", err)
		}
		if err := each(line); err != nil {
			return err
		}
	}
	return c.explain(ctx, cmp.Or(lines.Err(), io.EOF))
}

func (c *Client) do(ctx context.Context, method, verb string, request any) (Status, error) {
	var status Status
	err := c.ask(ctx, method, verb, request, &status)
	return status, err
}

// ask sends one request and reads the answer into result.
func (c *Client) ask(ctx context.Context, method, verb string, request, result any) error {
	ctx, stop := c.whileItAnswers(ctx)
	defer stop()
	answer, err := c.open(ctx, method, verb, request)
	if err != nil {
		return err
	}
	defer answer.Close()
	text, err := io.ReadAll(http.MaxBytesReader(nil, answer, maxReply))
	if err != nil {
		return c.explain(ctx, err)
	}
	if err := json.Unmarshal(text, result); err != nil {
		return fmt.Errorf("cannot parse vifproxyd's reply: %w", err)
	}
	return nil
}

// whileItAnswers returns a context that ends if the daemon hangs. A verb may rightly take long, so meanwhile the client asks for something
// that the daemon answers at once. The caller calls stop when the verb is over.
func (c *Client) whileItAnswers(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-time.After(statusTimeout):
			case <-ctx.Done():
				return
			}
			within, done := context.WithTimeoutCause(ctx, statusTimeout, errHangs)
			answer, err := c.open(within, http.MethodGet, "appvms", noRequest{})
			if err == nil {
				answer.Close()
			}
			done()
			if errors.Is(err, errHangs) {
				cancel(fmt.Errorf("%w (it may still do what it was asked)", errHangs))
				return
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		beside.Wait()
	}
}

// open sends a request, and returns the answer if that is not one of the daemon's errors.
func (c *Client) open(ctx context.Context, method, verb string, request any) (io.ReadCloser, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://vifproxyd/v1/"+verb, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(http.MaxBytesReader(nil, answer.Body, maxReply))
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	problem := &DaemonError{Fault: faultOf(answer.StatusCode)}
	if json.Unmarshal(text, problem) != nil || problem.Message == "" { // net/http's own words
		problem.Message = fmt.Sprintf("vifproxyd answered %s: %.200q", answer.Status, text)
	}
	if problem.Fault == Forbidden {
		return nil, &PermissionError{c.socket, problem}
	}
	return nil, problem
}

// aDaemonRuns reports whether the name that a vifproxyd takes in its network namespace is taken.
func aDaemonRuns() bool {
	text, err := os.ReadFile("/proc/self/net/unix")
	return err == nil && bytes.Contains(text, []byte(" "+OnlyName+"\n"))
}

// explain returns a sentence for what the kernel said when the socket was used.
func (c *Client) explain(ctx context.Context, err error) error {
	var errno syscall.Errno
	var operation *net.OpError
	dialing := errors.As(err, &operation) && operation.Op == "dial"
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case dialing && errors.As(err, &errno) && (errno == syscall.ENOENT || errno == syscall.ECONNREFUSED):
		if aDaemonRuns() {
			return fmt.Errorf("vifproxyd runs, but nobody listens on %s (%v): if that is its socket, somebody has removed it;"+
				" `systemctl status vifproxyd` says more, `systemctl restart vifproxyd` makes it again", c.socket, errno)
		}
		return &NotRunningError{c.socket, errno}
	case dialing && errors.As(err, &errno) && (errno == syscall.EACCES || errno == syscall.EPERM):
		return &PermissionError{c.socket, errno}
	case dialing:
		return fmt.Errorf("connect to vifproxyd: %w", operation)
	}
	if outer := (*url.Error)(nil); errors.As(err, &outer) { // the URL says nothing to anybody
		err = outer.Err
	}
	return fmt.Errorf("vifproxyd broke off the conversation: see `journalctl -u vifproxyd`: %w", err)
}
