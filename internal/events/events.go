// Package events is the daemon's vocabulary, and its way out. Each event becomes a log line, which the journal keeps with its
// fields, and a line of `vifproxyctl watch`. [Emitter.Emit] makes both of the same values. A list for each AppVM also keeps the
// requests that its proxy did not serve, which `vifproxyctl denied` prints.
//
// Concurrency: all methods of an [Emitter] may be called from any goroutine. They wait for nothing but the log, whose handler must
// not block.
package events

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// An Emitter emits events: to the log, to all who watch, and requests that were not served to a list too.
type Emitter struct {
	Log *slog.Logger

	mu       sync.Mutex
	watchers map[*watcher]bool
	denied   map[netip.Addr]*deniedList // by AppVM
	visits   map[netip.Addr]func(Visit) // see OnVisit
	admitted func(Visit)                // see OnAdmitted; nil while there is none
	examine  func(Denial) bool          // see ExamineBy; nil while there is none
	noName   func(Denial) (Denial, bool)
}

// New returns an Emitter that writes to log.
func New(log *slog.Logger) *Emitter {
	return &Emitter{Log: log, watchers: map[*watcher]bool{}, denied: map[netip.Addr]*deniedList{}, visits: map[netip.Addr]func(Visit){}}
}

// Emit emits one event.
func (e *Emitter) Emit(k Kind, about About) {
	word := vocabulary[k]
	attrs := append(about.Attrs(), slog.String("event", word.name), slog.String("message_id", word.id))
	e.Log.LogAttrs(context.Background(), word.level, word.text, attrs...)
	event := Event{
		Time: time.Now(), Event: word.name, Level: strings.ToLower(word.level.String()), Text: word.text, About: about,
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.watchers {
		w.add(event)
	}
}

// ExamineBy sets a function that finds out what became of a connection that failed. It reports whether it does so; if it does,
// it calls Record in the end.
func (e *Emitter) ExamineBy(examine func(Denial) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.examine = examine
}

// lateAnswer and lateAnswers: tinyproxy may say that a name has no address before the resolver says why. The daemon looks again after
// lateAnswer, and each time after twice as long.
const (
	lateAnswer  = 20 * time.Millisecond
	lateAnswers = 5 // 620 ms in all
)

// NamesBy sets a function that returns a request for a name without an address with what the resolver has said about the name, and
// reports whether it has said anything. It must not wait.
func (e *Emitter) NamesBy(noName func(Denial) (Denial, bool)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noName = noName
}

// Denied takes every request that a proxy did not serve. It has a failed connection examined first, and records all others.
func (e *Emitter) Denied(d Denial) {
	e.mu.Lock()
	noName := e.noName
	if d.Reason == ReasonName && noName != nil {
		e.mu.Unlock()
		e.recordName(d, noName, lateAnswer)
		return
	}
	examine := e.examine
	if d.Reason != ReasonConnect || d.What != "" || examine != nil && !e.listOf(d.IP).looks.AllowN(time.Now(), 1) {
		examine = nil
	}
	e.mu.Unlock()
	if examine == nil || !examine(d) {
		e.Record(d)
	}
}

// recordName records a request for a name without an address as soon as the resolver has said why, or when it has said nothing for long.
func (e *Emitter) recordName(d Denial, noName func(Denial) (Denial, bool), wait time.Duration) {
	known, ok := noName(d)
	if ok || wait >= lateAnswer<<lateAnswers {
		e.Record(known)
		return
	}
	time.AfterFunc(wait, func() { e.recordName(d, noName, 2*wait) })
}

// Record counts a request that was not served, and emits an event if that AppVM has not used up its share of them.
func (e *Emitter) Record(d Denial) {
	host := DeniedHost{Host: d.Host, Port: d.Port, Reason: d.Reason, What: d.What, Why: d.Why}
	e.mu.Lock()
	host, emit, notShown := e.listOf(d.IP).add(host, time.Now())
	e.mu.Unlock()
	if emit {
		e.Emit(kindOf(d.Reason), About{VM: d.VM, IP: d.IP, Host: host.Host, Port: host.Port, Reason: host.Reason,
			What: host.What, Why: host.Why, Browser: host.Browser, NotShown: notShown})
	}
}

// kindOf returns the kind of event that a request makes which was not served.
func kindOf(r Reason) Kind {
	switch r {
	case ReasonName, ReasonConnect:
		return Unreached
	case ReasonTemplate:
		return TurnedAway
	case ReasonFull:
		return ClientsFull
	}
	return Refused
}
