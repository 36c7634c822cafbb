package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"vifproxy/internal/events"
)

// limits bounds what one client can hold up, and for how long.
type limits struct {
	connections int32         // of root, and again of all others
	each        int32         // of these, of one uid that is not root's
	watchers    int32         // of these; they stay, and must leave room for the others
	learners    int32         // of these, AppVMs that learn: each has two proxies meanwhile
	callers     int32         // of these, AppVMs that are told what they are refused; they stay too
	receive     time.Duration // for the header, and again for the body
	send        time.Duration // for the reply, once there is one
	end         time.Duration // for what is under way when the daemon stops
	told        time.Duration // from when the kernel tells that the socket may be gone until a look for it; an rm -r goes on
	look        time.Duration // between looks for it without that: the kernel does not tell if its directory is renamed
}

var defaults = limits{
	connections: 256, each: 192, watchers: 32, learners: 8, callers: 128,
	receive: 5 * time.Second, send: 10 * time.Second, end: time.Second, told: time.Second, look: 30 * time.Second,
}

// Serve answers requests until ctx ends, and then returns nil. If the socket fails it returns an error: ErrRemoved if somebody has
// removed the socket. After either, [Listener.Again] makes the socket again.
//
// When ctx ends, requests under way are cancelled. When Serve returns, no request is being served any more and the socket is gone.
// Its lock is not: see [Listener.Close].
func Serve(ctx context.Context, l *Listener, service Service, log *slog.Logger) error {
	return serve(ctx, l, service, log, defaults)
}

func serve(ctx context.Context, l *Listener, service Service, log *slog.Logger, limits limits) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{stopping: ctx, limits: limits, log: log, mux: http.NewServeMux()}
	s.routes(service)

	in := &door{UnixListener: l.socket, gid: l.gid, limits: limits, log: log, inside: map[uint32]int32{}}
	var connections sync.WaitGroup // ends with the goroutine of each connection, so after its handler
	h := &http.Server{
		Handler: s,
		// ReadTimeout and WriteTimeout would also end a verb that rightly takes its time; see receive and
		// reply.
		ReadHeaderTimeout: limits.receive,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*visit).peer)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				connections.Add(1)
			case http.StateClosed:
				in.left(c.(*visit).peer.uid)
				connections.Done()
			}
		},
	}
	h.SetKeepAlivesEnabled(false) // a connection has one request and one answer

	removed := false
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		removed = l.vanishes(ctx, limits)
		if removed { // the file at the path now may be another one
			l.socket.SetUnlinkOnClose(false)
		}
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), limits.end)
		defer done()
		if h.Shutdown(bounded) != nil {
			h.Close()
		}
	}()
	err := h.Serve(in)
	cancel()
	<-ended
	connections.Wait()
	l.served = true
	if removed {
		return ErrRemoved
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve control socket: %w", err)
}

type server struct {
	stopping context.Context // ends with the daemon
	limits   limits
	log      *slog.Logger
	mux      *http.ServeMux
	watching atomic.Int32
	telling  atomic.Int32
	learning atomic.Int32
}

type peerKey struct{}

// routes is the table of verbs.
func (s *server) routes(do Service) {
	handle(s, "GET /v1/status", func(ctx context.Context, _ noRequest) (Status, error) {
		return do.Status(ctx)
	})
	handle(s, "GET /v1/appvms", func(ctx context.Context, _ noRequest) (Status, error) {
		return do.AppVMs(ctx)
	})
	handle(s, "POST /v1/update", func(ctx context.Context, _ noRequest) (Status, error) {
		return do.Update(ctx)
	})
	handle(s, "POST /v1/start", named(do.Start))
	handle(s, "POST /v1/stop", named(do.Stop))
	handle(s, "POST /v1/restart", named(do.Restart))
	handle(s, "POST /v1/kill-all", func(ctx context.Context, r killRequest) (Status, error) {
		return do.KillAll(ctx, r.Restart)
	})
	handle(s, "POST /v1/allow", func(ctx context.Context, r Temporary) (Status, error) {
		if n := len(r.Hosts); n == 0 || n > maxNames || r.Seconds < 0 || r.Seconds > MaxTemporary {
			return Status{}, errorf(Invalid, "%d hosts for %d seconds: 1 to %d hosts are allowed, for %d"+
				" seconds at most", n, r.Seconds, maxNames, MaxTemporary)
		}
		return do.Allow(ctx, r)
	})
	s.mux.HandleFunc("POST /v1/explain", answer(s, func(ctx context.Context, r explainRequest) (Explanation, error) {
		return do.Explain(ctx, r.Name, r.URL)
	}))
	s.mux.HandleFunc("GET /v1/denied", answer(s, func(ctx context.Context, r deniedRequest) ([]events.Denied, error) {
		return do.Denied(ctx, r.Names, r.Since)
	}))
	s.mux.HandleFunc("GET /v1/review", answer(s, func(ctx context.Context, r namesRequest) ([]ListUse, error) {
		return do.Review(ctx, r.Names)
	}))
	handle(s, "GET /v1/caller", func(ctx context.Context, r callerRequest) (Status, error) {
		return do.Caller(ctx, r.Name)
	})
	s.mux.HandleFunc("GET /v1/watch", stream(s, &s.watching, s.limits.watchers,
		func(ctx context.Context, r namesRequest, send func(events.Event) error) error {
			return do.Watch(ctx, r.Names, send)
		}))
	s.mux.HandleFunc("POST /v1/learn", stream(s, &s.learning, s.limits.learners,
		func(ctx context.Context, r LearnRequest, send func(Lesson) error) error {
			if r.Seconds < 0 || r.Seconds > LearnMax {
				return errorf(Invalid, "to learn for %d seconds is not possible: %d seconds are at most", r.Seconds, LearnMax)
			}
			return do.Learn(ctx, r, send)
		}))
	s.mux.HandleFunc("GET /v1/refusals", stream(s, &s.telling, s.limits.callers,
		func(ctx context.Context, r callerRequest, send func(Refusal) error) error {
			return do.Refusals(ctx, r.Name, send)
		}))
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, errorf(Unknown, "vifproxyd does not know %.16q %.64q:"+
			" are vifproxyctl and vifproxyd of the same version?", r.Method, r.URL.Path))
	})
}

type verb[Req any] = question[Req, Status]

type question[Req, Rep any] func(context.Context, Req) (Rep, error)

func named(do verb[[]string]) verb[namesRequest] {
	return func(ctx context.Context, r namesRequest) (Status, error) {
		if n := len(r.Names); n == 0 || n > maxNames {
			return Status{}, errorf(Invalid, "%d names given: 1 to %d are allowed", n, maxNames)
		}
		return do(ctx, r.Names)
	}
}

func errorf(fault Fault, format string, args ...any) *DaemonError {
	return &DaemonError{fault, fmt.Sprintf(format, args...)}
}

// ServeHTTP checks who asks before it reads anything that was sent.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := r.Context().Value(peerKey{}).(peer)
	if !p.allowed {
		s.log.Warn("control socket: turned away", "uid", p.uid, "pid", p.pid)
		s.fail(w, errorf(Forbidden, "uid %d may not use it", p.uid))
		return
	}
	if r.Method != http.MethodGet {
		s.log.Info("control request", "verb", r.URL.Path, "uid", p.uid, "pid", p.pid)
	}
	s.mux.ServeHTTP(w, r)
}

// handle adds one row to the table: the answer to a request of type Req is the status that do returns.
func handle[Req any](s *server, pattern string, do verb[Req]) {
	s.mux.HandleFunc(pattern, answer(s, func(ctx context.Context, r Req) (Status, error) {
		status, err := do(ctx, r)
		return nonNil(status), err
	}))
}

func answer[Req, Rep any](s *server, do question[Req, Rep]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Req
		if err := s.receive(w, r, &request); err != nil {
			s.fail(w, err)
			return
		}
		reply, err := do(r.Context(), request)
		if err != nil {
			s.fail(w, err)
			return
		}
		s.reply(w, http.StatusOK, reply)
	}
}

// stream answers with a stream of what do sends. A client may read slowly, or not at all while a person pages through its output. There
// is no deadline for it: it holds up nothing but itself, and its connection is closed when the daemon stops. At most so many may be open.
func stream[Req, T any](s *server, open *atomic.Int32, most int32, do func(context.Context, Req, func(T) error) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Req
		if err := s.receive(w, r, &request); err != nil {
			s.fail(w, err)
			return
		}
		defer open.Add(-1)
		if n := open.Add(1); n > most {
			s.fail(w, errorf(TooMany, "%d are watching already: end one of them", n-1))
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		lines, conn, begun := json.NewEncoder(w), http.NewResponseController(w), false
		err := do(r.Context(), request, func(v T) error {
			begun = true
			return errors.Join(lines.Encode(v), conn.Flush())
		})
		if err != nil && !begun {
			s.fail(w, err)
		}
	}
}

// receive reads a request into v; an empty body is an empty object. It reads the whole body before the verb begins. Only then
// does net/http notice that the client hangs up, and end the request's context.
func (s *server) receive(w http.ResponseWriter, r *http.Request, v any) error {
	conn := http.NewResponseController(w)
	if err := conn.SetReadDeadline(time.Now().Add(s.limits.receive)); err != nil {
		return err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	var huge *http.MaxBytesError
	switch {
	case errors.As(err, &huge):
		return errorf(TooLong, "the request is longer than %d bytes", huge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errorf(TooSlow, "the request took too long to arrive")
	case err != nil:
		return errorf(Invalid, "read the request: %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if len(body) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return errorf(Invalid, "the request is wrong: %v", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errorf(Invalid, "the request is wrong: something follows the JSON object")
	}
	return nil
}

func (s *server) fail(w http.ResponseWriter, err error) {
	answer := errorf(Internal, "%v", err)
	var unknown *UnknownError
	switch {
	case errors.As(err, &answer):
	case errors.As(err, &unknown):
		answer.Fault = Unknown
	case s.stopping.Err() != nil:
		answer = errorf(Stopping, "vifproxyd is stopping")
	}
	s.reply(w, statuses[answer.Fault], answer)
}

func (s *server) reply(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err == nil {
		err = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.limits.send))
	}
	if err == nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, err = w.Write(body)
	}
	if err != nil { // the client is gone
		s.log.Debug("control socket: no reply", "err", err)
	}
}

// nonNil returns a status with empty lists for missing ones, which would be null in JSON and break scripts.
func nonNil(s Status) Status {
	s.VMs = append([]VM{}, s.VMs...)
	s.Problems = append([]string{}, s.Problems...)
	for i := range s.VMs {
		s.VMs[i].Interfaces = append([]string{}, s.VMs[i].Interfaces...)
	}
	return s
}
