package tinyproxy

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
)

const (
	// hostMax is how much is kept of a host: more than any name in the DNS has.
	hostMax = 255
	// pendingMax is how many requests of one proxy are remembered until their outcome is known. A browser has fewer. If an
	// AppVM has more, the oldest are forgotten.
	pendingMax = 64
	// connectPatience is how long a connection may take before people are told that nobody has answered. A SYN is sent again after 1
	// and after 3 s; the switchboard has an attempt end after 4 s, and then nobody sees any more why.
	connectPatience = 3500 * time.Millisecond
	// passwordPatience is how long a request may have no outcome if the template has BasicAuth. tinyproxy logs nothing when it
	// answers 401 or 407 (handle_connection in src/reqs.c of 1.10 to 1.11.2).
	passwordPatience = time.Second
)

// Requests finds out from the log of one tinyproxy which requests were not served, and why. No line says all: the host of a
// refused CONNECT, for example, is in an earlier line. A line is known by its level and the beginning of its message, in every
// version from 1.10 to 1.11.2 (src/reqs.c, src/sock.c, src/acl.c, src/child.c). An AppVM can get a line break into the log by
// folding its Host header. Such a line begins with a blank, and has nothing of the AppVM's before "]: ".
type Requests struct {
	config *Config
	uid    uint32
	onDeny func(events.Denial) // called with mu held
	onOpen func(host string, port uint16)
	onPass func(host string) // may be nil

	mu      sync.Mutex
	pending []pending
	timer   *time.Timer // for requests that have no outcome yet
	rings   time.Time   // when the timer fires; zero for never
	ended   bool
}

// NewRequests returns the Requests of a process with this configuration and uid. onDeny gets each request that is not served,
// without VM and Addr. onOpen gets host and port of each request for which the host, or the Upstream for it, has taken the connection;
// neither if that is not known. They must not block.
func NewRequests(config *Config, uid uint32, onDeny func(events.Denial), onOpen func(host string, port uint16)) *Requests {
	return &Requests{config: config, uid: uid, onDeny: onDeny, onOpen: onOpen}
}

// OnPass has f called, with mu held, for each request that tinyproxy's filter lets pass, before it connects. host is empty if it is not
// known. OnPass is called before the first Line, and f must not block.
func (r *Requests) OnPass(f func(host string)) { r.onPass = f }

// passes notes that the filter has let a request pass.
func (r *Requests) passes(host string) {
	if r.onPass != nil {
		r.onPass(host[:min(len(host), hostMax)])
	}
}

// pending is a request whose outcome is not known yet.
type pending struct {
	client  string // process and descriptor: in 1.10, each client has its own process
	host    string
	port    uint16
	connect bool
	proxied bool     // by an Upstream, whose host and port these are
	behind  Upstream // the host and port of the request, if so
	step    step
	since   time.Time // of this step
}

type step int

const (
	asked   step = iota // the request line has come
	opening             // tinyproxy resolves the name, and connects
	waiting             // the same, and it has been reported
	opened
)

// ask remembers a request line.
func (r *Requests) ask(client, line string) {
	r.forget(client)
	method, line, _ := strings.Cut(line, " ")
	target, _, _ := strings.Cut(line, " ")
	p := pending{client: client, connect: method == "CONNECT", since: time.Now()}
	p.host, p.port = destination(target, p.connect)
	r.add(p)
}

// add remembers a request, and forgets the oldest if there are too many.
func (r *Requests) add(p pending) {
	if len(r.pending) == pendingMax {
		r.remove(0)
	}
	r.pending = append(r.pending, p)
}

// destination returns host and port as extract_url in src/reqs.c reads them from a request. Both are empty if the host is in
// another line of the request.
func destination(target string, connect bool) (host string, port uint16) {
	port = 443
	if !connect {
		scheme, rest, ok := strings.Cut(target, "://")
		if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "ftp") {
			return "", 0
		}
		target, port = rest, 80
	}
	host, _, _ = strings.Cut(target, "/")
	if _, rest, ok := strings.Cut(host, "@"); ok {
		host = rest
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		if n, err := strconv.ParseUint(host[i+1:], 10, 16); err == nil && n > 0 {
			port = uint16(n)
		}
		host = host[:i]
	}
	if strings.HasPrefix(host, "[") {
		host = strings.TrimSuffix(host[1:], "]")
	}
	return host[:min(len(host), hostMax)], port
}

// find returns the index of the newest pending request that is(p) is true of, or -1. An older one may still be waiting for the
// rest of its headers. If several are alike, it may not be the one that tinyproxy meant, but then the same is reported of
// each.
func (r *Requests) find(is func(pending) bool) int {
	for i, p := range slices.Backward(r.pending) {
		if is(p) {
			return i
		}
	}
	return -1
}

// remove returns a pending request, and forgets it.
func (r *Requests) remove(i int) pending {
	p := r.pending[i]
	r.pending = slices.Delete(r.pending, i, i+1)
	return p
}

// forget notes that a descriptor belongs to another client now.
func (r *Requests) forget(client string) {
	i := r.find(func(p pending) bool { return p.client == client })
	if i < 0 {
		return
	}
	if p := r.remove(i); p.step == asked && r.config.BasicAuth {
		r.unauthorized(p)
	}
}

// drop notes that a request is over.
func (r *Requests) drop(client string) {
	r.pending = slices.DeleteFunc(r.pending, func(p pending) bool { return p.client == client })
}

func (r *Requests) refusedPort(text string) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return
	}
	d := events.Denial{Port: uint16(port), Reason: events.ReasonPort, Why: "ConnectPort does not name it"}
	if i := r.find(func(p pending) bool { return p.connect && p.step == asked && p.port == d.Port }); i >= 0 {
		d.Host = r.remove(i).host
	}
	r.deny(d)
}

// filtered notes a host or URL that the list refuses. The closing quote is missing if tinyproxy cut the line at 798 bytes
// (STRING_LENGTH in src/log.c), or if the host contains a line break.
func (r *Requests) filtered(rest []byte) {
	raw, isHost := bytes.CutPrefix(rest, []byte(`domain "`))
	if !isHost {
		var isURL bool
		if raw, isURL = bytes.CutPrefix(rest, []byte(`url "`)); !isURL {
			return
		}
	}
	raw = bytes.TrimSuffix(raw, []byte(`"`))
	d := events.Denial{Host: string(raw[:min(len(raw), hostMax)]), Reason: events.ReasonList, Why: "no line of its list permits it"}
	if !r.config.Filter.DefaultDeny {
		d.Why = "a line of its list forbids it"
	}
	host := string(raw)
	if !isHost {
		host, d.Port = destination(host, !strings.Contains(host, "://"))
	}
	if r.config.ComparesURLs() {
		d.Host = host[:min(len(host), hostMax)]
	}
	if i := r.find(func(p pending) bool { return p.step == asked && strings.EqualFold(p.host, host) }); i >= 0 {
		d.Port = r.remove(i).port
	} else if i := r.find(func(p pending) bool { return p.step == asked && p.host == "" }); i >= 0 {
		r.remove(i) // its host is in a header
	}
	r.deny(d)
}

// isTarget reports whether a request is for a target as tinyproxy names it: HOST:PORT, or HOST in 1.10.
func (p pending) isTarget(target string) bool {
	host, port := hostPort(target)
	return target == p.host || p.port == port && strings.EqualFold(p.host, host)
}

func hostPort(target string) (host string, port uint16) {
	i := strings.LastIndexByte(target, ':')
	if i < 0 {
		return target, 0
	}
	n, err := strconv.ParseUint(target[i+1:], 10, 16)
	if err != nil {
		return target, 0
	}
	return target[:i], uint16(n)
}

// upstream returns the Upstream of the template with this name.
func (r *Requests) upstream(target string) (Upstream, bool) {
	host, port := hostPort(target)
	for _, route := range r.config.Routes {
		if u := route.To; u != (Upstream{}) && (u.Host == target || u.Host == host && u.Port == port) {
			return u, true
		}
	}
	return Upstream{}, false
}

// open notes that tinyproxy begins to connect to a target. A connection to an Upstream becomes a request of its own here,
// because no line says which request it is for.
func (r *Requests) open(target string) {
	now := time.Now()
	if i := r.find(func(p pending) bool { return p.step == asked && p.isTarget(target) }); i >= 0 {
		r.pending[i].step, r.pending[i].since = opening, now
		r.passes(r.pending[i].host)
		return
	}
	p := pending{step: opening, since: now}
	if u, ok := r.upstream(target); ok {
		p.host, p.port, p.proxied = u.Host, u.Port, true
		if i := r.askedOf(u); i >= 0 {
			p.client, p.connect, p.behind = r.pending[i].client, r.pending[i].connect, Upstream{r.pending[i].host, r.pending[i].port}
			r.remove(i)
		}
	} else { // its host is in a header, or it was forgotten
		p.host, p.port = hostPort(target)
		if i := r.find(func(p pending) bool { return p.step == asked && p.host == "" }); i >= 0 {
			p.client = r.remove(i).client
		}
	}
	p.host = p.host[:min(len(p.host), hostMax)]
	if p.proxied {
		r.passes(p.behind.Host)
	} else {
		r.passes(p.host)
	}
	r.add(p)
}

// askedOf returns the index of the newest request that an Upstream may connect for, or -1. It prefers those of which the host is known.
func (r *Requests) askedOf(u Upstream) int {
	i := r.find(func(p pending) bool {
		to, _ := r.config.UpstreamFor(p.host)
		return p.step == asked && p.host != "" && to == u
	})
	if i < 0 {
		i = r.find(func(p pending) bool { return p.step == asked })
	}
	return i
}

// isOpening reports whether a connection is being made.
func (p pending) isOpening() bool { return p.step == opening || p.step == waiting }

// established notes that a host, or an Upstream, has answered.
func (r *Requests) established(host string) {
	i := r.find(func(p pending) bool { return p.isOpening() && strings.EqualFold(p.host, host) })
	if i < 0 {
		r.onOpen("", 0) // it was forgotten
		return
	}
	p := r.pending[i]
	to := Upstream{p.host, p.port}
	if p.proxied {
		to = p.behind
	}
	r.onOpen(to.Host, to.Port)
	if p.connect {
		r.remove(i)
	} else {
		r.pending[i].step = opened
	}
}

// failed notes that tinyproxy got no connection. An earlier line said that it tries.
func (r *Requests) failed(target string, reason events.Reason, why string) {
	d := events.Denial{Reason: reason, Why: why}
	d.Host, d.Port = hostPort(target)
	// Of requests that are alike, the one that began first fails first. A connection that hangs for minutes has been reported
	// already, so a failure is counted for another one if possible; otherwise that one would never be reported.
	i := slices.IndexFunc(r.pending, func(p pending) bool { return p.step == opening && p.isTarget(target) })
	if i < 0 {
		i = slices.IndexFunc(r.pending, func(p pending) bool { return p.step == waiting && p.isTarget(target) })
	}
	if i >= 0 {
		p := r.remove(i)
		if p.step == waiting {
			return // reported already
		}
		d.Host, d.Port, d.Took = p.host, p.port, time.Since(p.since)
	}
	r.deny(d)
}

// noAnswer notes that a request failed after the connection was made. The line has the errno in the words of the C locale;
// ofAppVM is the one that means that the AppVM closed its connection.
func (r *Requests) noAnswer(rest, ofAppVM string) {
	why, rest, _ := strings.Cut(rest, `. host "`)
	host, _, _ := strings.Cut(rest, `"`)
	i := r.find(func(p pending) bool { return p.step == opened && strings.EqualFold(p.host, host) })
	if i < 0 {
		return
	}
	p := r.remove(i)
	d := events.Denial{Host: p.host, Port: p.port, Reason: events.ReasonConnect, What: events.Closed, Why: "it closed the connection without an answer"}
	switch why {
	case ofAppVM:
		return
	case "Resource temporarily unavailable": // Timeout is over (set_socket_timeout in src/sock.c)
		d.What, d.Why = events.NoAnswer, "it took the connection, and sent no answer"
	}
	r.deny(d)
}

func (r *Requests) unauthorized(p pending) {
	r.deny(events.Denial{Host: p.host, Port: p.port, Reason: events.ReasonTemplate, What: "BasicAuth",
		Why: "BasicAuth in the template `config` wants a user and a password that were not sent"})
}

// deny reports a request, with nothing in it that a terminal acts on.
func (r *Requests) deny(d events.Denial) {
	to := Upstream{d.Host, d.Port}
	d.Upstream = (d.Reason == events.ReasonName || d.Reason == events.ReasonConnect) && to != (Upstream{}) &&
		slices.ContainsFunc(r.config.Routes, func(route Route) bool { return route.To == to })
	d.Host, d.Why, d.UID = terminal.Escape(d.Host), terminal.Escape(d.Why[:min(len(d.Why), hostMax)]), r.uid
	r.onDeny(d)
}
