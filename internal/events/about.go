package events

import (
	"log/slog"
	"net/netip"
	"time"
)

// An Event is one thing that happened, as Watch passes it on.
type Event struct {
	Time  time.Time `json:"time"`
	Event string    `json:"event"` // a word of the vocabulary, or one of those below
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

// An About says whom and what an event concerns. A field that does not apply is zero, and left out everywhere.
type About struct {
	VM      string     `json:"vm,omitempty"`
	IP      netip.Addr `json:"ip,omitzero"`
	VIF     string     `json:"vif,omitempty"`
	Host    string     `json:"host,omitempty"` // as the AppVM sent it, escaped where it is not printable
	Port    uint16     `json:"port,omitempty"` // of the proxy, or of Host in the event refused
	Reason  Reason     `json:"reason,omitempty"`
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

// CeilMS rounds a duration up to milliseconds, so that an About never leaves out what took any time.
func CeilMS(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// Attrs returns the fields that are set, in the daemon's vocabulary of keys. Log lines, journal fields and the text of `watch`
// are all made from it.
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
	text("reason", string(a.Reason))
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
