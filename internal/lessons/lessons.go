// Package lessons notes what an AppVM reaches during a lesson, see package plan. An AppVM chooses all of it, and one that owns its proxy
// makes it up, so a record is bounded, holds nothing but host names and addresses, and decides nothing.
//
// Concurrency: the methods of a [Record] may be called from any goroutine. Saw and End never wait.
package lessons

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/internal/browsers"
	"vifproxy/rules/hostname"
	"vifproxy/rules/match"
)

const (
	// HostsMax is how many hosts, each at one port, a record has. Later ones are counted.
	HostsMax = 1000
	// flushInterval is the time between two tellings of what is new.
	flushInterval = 100 * time.Millisecond
)

// A Record is what an AppVM has reached during one lesson.
type Record struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	hosts  map[key]*host
	news   []*host // that have changed since they were told last
	cut    int     // connections that are not in the record, because it is full
	unread int     // those of which the host is not known, or is no host name
	untold bool    // cut or unread have changed since they were told last
	over   bool
	why    string
}

type key struct {
	name string
	port uint16
}

type host struct {
	control.LearntHost
	isNew bool // it is among the news
}

// NewRecord returns an empty record.
func NewRecord() *Record {
	return &Record{wake: make(chan struct{}, 1), hosts: map[key]*host{}}
}

// Saw notes a connection to a host, as the AppVM has sent it. An empty host is one that is not known.
func (r *Record) Saw(sent string, port uint16) {
	name, ok := nameOf(sent)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	defer r.tell()
	h := r.hosts[key{name, port}]
	switch {
	case !ok || port == 0:
		r.unread++
		r.untold = true
		return
	case h == nil && len(r.hosts) == HostsMax:
		r.cut++
		r.untold = true
		return
	case h == nil:
		h = &host{LearntHost: control.LearntHost{Host: name, Port: port, First: now, Browser: browsers.Purpose(name)}}
		r.hosts[key{name, port}] = h
	}
	h.Count++
	h.Last = now
	if !h.isNew {
		h.isNew = true
		r.news = append(r.news, h)
	}
}

// nameOf returns a host as a list has it, and reports whether it is a host name or an address.
func nameOf(sent string) (string, bool) {
	if addr, err := netip.ParseAddr(sent); err == nil {
		return addr.String(), addr.Zone() == ""
	}
	name, flaw := hostname.Canonical(sent)
	return name, flaw == nil && !strings.HasPrefix(name, "*")
}

// tell wakes Follow. It never waits.
func (r *Record) tell() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// End notes that the lesson is over. Later connections are not noted.
func (r *Record) End(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.over, r.why = true, why
		r.tell()
	}
}

// Follow calls send for what is noted: a line for each host, and another one when its count has changed. list is the AppVM's list
// as it was when the lesson began. It ends after the line that says why the lesson is over, or when ctx ends or send fails.
func (r *Record) Follow(ctx context.Context, list *match.Matcher, send func(control.Lesson) error) error {
	told := map[key]bool{} // whether the list permits them
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		lines := r.take()
		for _, line := range lines {
			if h := line.LearntHost; h != nil {
				k := key{h.Host, h.Port}
				permits, known := told[k]
				if !known {
					permits, _ = list.Permits(h.Host)
					told[k] = permits
				}
				h.Listed = permits
			}
			if err := send(line); err != nil || line.Event == control.LessonOver {
				return err
			}
		}
		select { // a host that is asked for all the time makes one line each time
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take returns what there is to tell.
func (r *Record) take() (lines []control.Lesson) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.news {
		copied := h.LearntHost
		h.isNew = false
		lines = append(lines, control.Lesson{Event: control.LessonHost, LearntHost: &copied})
	}
	r.news = nil
	if r.untold {
		r.untold = false
		lines = append(lines, control.Lesson{Event: control.LessonCut, Cut: r.cut, Unread: r.unread})
	}
	if r.over {
		lines = append(lines, control.Lesson{Event: control.LessonOver, Why: r.why, Cut: r.cut, Unread: r.unread})
	}
	return lines
}
