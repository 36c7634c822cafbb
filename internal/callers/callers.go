// Package callers answers AppVMs that ask by qrexec: which list is theirs, and what it refuses. A caller has the list of its own name and
// no other. It learns nothing about others, and gets no more of the daemon's attention than its share.
//
// Concurrency: the methods of a Desk may be called from any goroutine. It starts none.
package callers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/control"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/rules/hostname"
)

// Limits of what a caller may ask for.
const (
	callsAtOnce    = 30              // a person allows the hosts of one page
	callInterval   = 2 * time.Second // between calls, in the long run
	streamsMax     = 2               // open at once: a notifier and a terminal
	remembered     = 256             // callers of which is known how often they have asked
	complaintAfter = time.Hour       // between two lines of the log about one caller
)

// A Desk is a control.Service: it does what callers ask for with the verbs of people.
type Desk struct {
	control.Verbs
	log *slog.Logger

	mu      sync.Mutex
	callers map[string]*caller
}

// A caller is what is known of one AppVM.
type caller struct {
	calls   *rate.Limiter
	streams int
	turned  int       // away, since the last line of the log
	told    time.Time // when that was
}

// New returns a Desk that uses these verbs, and says in log who asks too often.
func New(verbs control.Verbs, log *slog.Logger) *Desk {
	return &Desk{Verbs: verbs, log: log, callers: map[string]*caller{}}
}

// Caller returns the status with the list of the caller alone.
func (d *Desk) Caller(ctx context.Context, name string) (control.Status, error) {
	if err := d.admit(name, 0, time.Now()); err != nil {
		return control.Status{}, err
	}
	return d.own(ctx, name)
}

// errOver ends a stream whose list is gone, or not the caller's alone any more.
var errOver = errors.New("the list is gone")

// Refusals sends what the list of the caller refuses.
func (d *Desk) Refusals(ctx context.Context, name string, send func(control.Refusal) error) error {
	if err := d.admit(name, 1, time.Now()); err != nil {
		return err
	}
	defer d.leave(name)
	began, err := d.own(ctx, name)
	if err != nil {
		return err
	}
	list := began.VMs[0]
	return d.Watch(ctx, []string{name}, func(e events.Event) error {
		refused := e.Reason == events.ReasonList || e.Reason == events.ReasonPort
		switch {
		case e.VM == name && e.IP.String() != list.IP, e.Event == events.Watching, strings.HasPrefix(e.Event, "rules-"):
			now, err := d.own(ctx, name)
			if err != nil {
				return err
			}
			if now.VMs[0].IP != list.IP {
				return errOver
			}
			if e.Event == events.Watching { // so no list came between
				return send(control.Refusal{Time: e.Time.UTC()})
			}
		case e.VM == name && refused && e.Host != "":
			return send(refusalOf(e))
		}
		return nil
	})
}

// refusalOf returns what a request's AppVM learns about it.
func refusalOf(e events.Event) control.Refusal {
	r := control.Refusal{Time: e.Time.UTC().Truncate(time.Millisecond), Host: e.Host, Port: e.Port, Reason: e.Reason, Browser: e.Browser}
	if name, flaw := hostname.Canonical(e.Host); flaw == nil {
		r.Host = name
	}
	r.Site = hostname.Site(r.Host)
	return r
}

// own returns the status with the one list that bears the caller's name and is for the caller alone. The errors say nothing about other
// lists, so that the caller may learn of them.
func (d *Desk) own(ctx context.Context, name string) (control.Status, error) {
	status, err := d.AppVMs(ctx)
	if err != nil {
		return control.Status{}, err
	}
	var found []control.VM
	for _, vm := range status.VMs {
		if vm.Name == name {
			found = append(found, vm)
		}
	}
	switch {
	case len(found) > 1:
		return control.Status{}, &control.DaemonError{Fault: control.Conflict, Message: "more than one list has this name"}
	case len(found) == 0 || found[0].IP == "" || found[0].Origin != control.InFile && found[0].Origin != control.InDom0:
		// Lists of a range, and firewall settings, are named here after addresses: an AppVM may have such a name.
		return control.Status{}, &control.DaemonError{Fault: control.Unknown, Message: "no list of its own has this name"}
	}
	return control.Status{VMs: found, Setup: status.Setup}, nil
}

// admit counts a call, which opens so many streams, and returns an error if the caller has used up its share.
func (d *Desk) admit(name string, streams int, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.callers[name]
	if c == nil {
		if len(d.callers) >= remembered {
			d.forget(now)
		}
		if len(d.callers) >= remembered {
			return errTooMany
		}
		c = &caller{calls: rate.NewLimiter(rate.Every(callInterval), callsAtOnce)}
		d.callers[name] = c
	}
	if c.calls.AllowN(now, 1) && c.streams+streams <= streamsMax {
		c.streams += streams
		return nil
	}
	c.turned++
	if c.told.IsZero() || now.Sub(c.told) >= complaintAfter {
		d.log.Warn("an AppVM asks too often: it gets no answer for a while", "vm", terminal.Quote(name),
			"why", fmt.Sprintf("%d calls at once, one in %v after that, %d streams", callsAtOnce, callInterval, streamsMax), "count", c.turned)
		c.turned, c.told = 0, now
	}
	return errTooMany
}

var errTooMany = &control.DaemonError{Fault: control.TooMany, Message: "asked too often: wait a minute"}

// leave notes that a stream of the caller has ended.
func (d *Desk) leave(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.callers[name].streams--
}

// forget forgets callers who have been quiet: nothing of them counts any more.
func (d *Desk) forget(now time.Time) {
	for name, c := range d.callers {
		if c.streams == 0 && c.calls.TokensAt(now) >= callsAtOnce && now.Sub(c.told) >= complaintAfter {
			delete(d.callers, name)
		}
	}
}
