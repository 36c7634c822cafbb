package control

import (
	"log/slog"
	"net/netip"
	"time"
)

// Event is one thing that happened, as Watch tells it.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"` // a word of the daemon's vocabulary, or one of those below
	Level string    `json:"level"` // info, warn or error
	Text  string    `json:"text"`  // the same for a person
	About
}

// Events that are only about watching itself.
const (
	Watching = "watching" // the first of every stream
	Missed   = "missed"   // Count events were not read fast enough
	Lost     = "lost"     // made by vifproxyctl: the daemon has gone
)

// About is whom and what an event concerns. What does not apply is zero, and left out everywhere.
type About struct {
	VM      string     `json:"vm,omitempty"`
	IP      netip.Addr `json:"ip,omitzero"`
	VIF     string     `json:"vif,omitempty"`
	Host    string     `json:"host,omitempty"` // as the AppVM sent it, escaped where it is not printable
	Port    uint16     `json:"port,omitempty"` // of the proxy, or of Host in the event refused
	Reason  string     `json:"reason,omitempty"`
	Browser string     `json:"browser,omitempty"` // what browsers want of Host by themselves, for a person
	PID     int        `json:"pid,omitempty"`
	MS      int64      `json:"ms,omitempty"` // how long it took, rounded up
	RetryMS int64      `json:"retry_ms,omitempty"`
	Seconds int        `json:"seconds,omitempty"` // for so long
	Why     string     `json:"why,omitempty"`
	Old     string     `json:"old,omitempty"` // name of a renamed AppVM
	What    string     `json:"what,omitempty"`
	Version string     `json:"version,omitempty"`
	Count   int        `json:"count,omitempty"`
	// Connections counts those of the AppVM that were cut.
	Connections int    `json:"connections,omitempty"`
	NotShown    int    `json:"not_shown,omitempty"` // refusals since the last event that made none
	Err         string `json:"err,omitempty"`
}

// Milliseconds rounds up, so that what took time is never left out.
func Milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// Attrs is what a has to say, in the daemon's vocabulary of keys. Log lines, journal fields and what a person
// reads are all made from it.
func (a About) Attrs() []slog.Attr {
	attrs := make([]slog.Attr, 0, 8)
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	number := func(key string, value int64) {
		if value != 0 {
			attrs = append(attrs, slog.Int64(key, value))
		}
	}
	text("vm", a.VM)
	if a.IP.IsValid() {
		text("ip", a.IP.String())
	}
	text("vif", a.VIF)
	text("host", a.Host)
	number("port", int64(a.Port))
	text("reason", a.Reason)
	text("browser", a.Browser)
	number("pid", int64(a.PID))
	number("ms", a.MS)
	number("retry_ms", a.RetryMS)
	number("seconds", int64(a.Seconds))
	text("why", a.Why)
	text("old", a.Old)
	text("what", a.What)
	text("version", a.Version)
	number("count", int64(a.Count))
	number("connections", int64(a.Connections))
	number("not_shown", int64(a.NotShown))
	text("err", a.Err)
	return attrs
}

// Denied is what one AppVM asked for and did not get.
type Denied struct {
	VM    string       `json:"vm"`
	IP    string       `json:"ip"`
	Hosts []DeniedHost `json:"hosts"` // those that browsers ask for by themselves last, else newest first; never null on the wire
	// Forgotten counts requests for hosts that are not listed any more, because newer ones took their place.
	Forgotten int `json:"forgotten"`
}

// DeniedHost is one host, or URL where the template sets FilterURLs, that was asked for at one port and not reached for one
// reason. What the AppVM sent is escaped where it is not printable.
type DeniedHost struct {
	Host   string `json:"host"`           // empty if it is not known
	Port   uint16 `json:"port,omitempty"` // 0 if it is not known
	Reason string `json:"reason"`         // one of those below
	What   string `json:"what,omitempty"` // the same in more detail, in a word, the last time
	Why    string `json:"why,omitempty"`  // the same for a person
	// Browser is what browsers want of this host by themselves, for a person; empty if none is known to ask for it.
	Browser string `json:"browser,omitempty"`

	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Reasons why a request is not served, in the order in which it meets them. They are tinyproxy's, as far as the daemon sees
// them: an AppVM that has taken over its proxy can make them up.
const (
	DeniedFull     = "full"     // as many connections are open as MaxClients permits
	DeniedTemplate = "template" // What is Allow or BasicAuth
	DeniedPort     = "port"     // a tunnel (CONNECT) to a port that is not open for tunnels
	DeniedList     = "list"     // no line permits it
	DeniedName     = "name"     // it has no address
	DeniedConnect  = "connect"  // What is NoAnswer or one of those that follow it
)

// What became of a connection.
const (
	NoAnswer     = "no-answer"
	HostRefused  = "refused"       // by the host
	Closed       = "closed"        // by the host, without an answer
	FenceRefused = "fence"         // proxies may not go there
	NoRoute      = "no-route"      // nothing leads there
	OtherTable   = "another-table" // what the proxy sends does not leave the VM, and it is not the fence
)
