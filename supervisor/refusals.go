package supervisor

import (
	"container/list"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/control"
	"vifproxy/internal/browsers"
)

// What an AppVM does not get is its own doing, as often and with as many names as it likes. So each has a list of its own,
// which holds deniedHosts entries, of 1020 bytes for the host and as many for the reason (tinyproxy.Denied): 600 KB. Nothing
// it does changes another's.
const (
	deniedHosts  = 256
	refusedBurst = 20 // events, to the journal and to those who watch
	refusedRate  = 1  // events a second; connections that are looked into as well
	refusedKept  = 10 // of the burst, for hosts that no browser asks for by itself
)

// refusals are the lists, by AppVM.
type refusals map[netip.Addr]*refusalList

type refusalList struct {
	hosts     map[refusalKey]*list.Element
	order     list.List // of *control.DeniedHost, newest first
	forgotten int       // refusals of hosts that have been pushed out

	events *rate.Limiter
	hushed int           // refusals since the last event that made none
	looks  *rate.Limiter // at what became of connections
}

// refusalKey is what refusals that are counted together have in common.
type refusalKey struct {
	host   string
	port   uint16
	reason string
}

func (r refusals) of(vm netip.Addr) *refusalList {
	l := r[vm]
	if l == nil {
		l = &refusalList{hosts: map[refusalKey]*list.Element{},
			events: rate.NewLimiter(refusedRate, refusedBurst), looks: rate.NewLimiter(refusedRate, refusedBurst)}
		r[vm] = l
	}
	return l
}

// add counts one refusal. It returns what is known of it, whether to make an event of it, and how many before it made none.
func (l *refusalList) add(d control.DeniedHost, now time.Time) (known control.DeniedHost, tell bool, hushed int) {
	key := refusalKey{d.Host, d.Port, d.Reason}
	if e := l.hosts[key]; e != nil {
		l.order.MoveToFront(e)
	} else {
		if len(l.hosts) == deniedHosts {
			oldest := l.order.Remove(l.order.Back()).(*control.DeniedHost)
			delete(l.hosts, refusalKey{oldest.Host, oldest.Port, oldest.Reason})
			l.forgotten += oldest.Count
		}
		l.hosts[key] = l.order.PushFront(&control.DeniedHost{Host: d.Host, Port: d.Port, Reason: d.Reason,
			Browser: browsers.Purpose(d.Host), First: now})
	}
	entry := l.order.Front().Value.(*control.DeniedHost)
	if d.What != "" || entry.What == "" { // else it was not looked into this time
		entry.What, entry.Why = d.What, d.Why
	}
	entry.Count++
	entry.Last = now
	if entry.Browser != "" && l.events.TokensAt(now) <= refusedKept || !l.events.AllowN(now, 1) {
		l.hushed++
		return *entry, false, 0
	}
	hushed, l.hushed = l.hushed, 0
	return *entry, true, hushed
}

// since returns the hosts that were refused then or later: newest first, and those that browsers ask for by themselves behind
// all others, since a person looks for what a page misses.
func (l *refusalList) since(then time.Time) []control.DeniedHost {
	hosts, background := []control.DeniedHost{}, []control.DeniedHost(nil)
	for e := l.order.Front(); e != nil; e = e.Next() {
		h := e.Value.(*control.DeniedHost)
		if h.Last.Before(then) {
			break
		}
		if h.Browser != "" {
			background = append(background, *h)
		} else {
			hosts = append(hosts, *h)
		}
	}
	return append(hosts, background...)
}

// denied is what an AppVM was refused.
func (e *Events) denied(vm netip.Addr, since time.Time) (hosts []control.DeniedHost, forgotten int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.refusals[vm]; l != nil {
		return l.since(since), l.forgotten
	}
	return []control.DeniedHost{}, 0
}

// forget drops the lists of AppVMs that have no rule file any more.
func (e *Events) forget(wanted map[netip.Addr]*Desired) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for vm := range e.refusals {
		if wanted[vm] == nil {
			delete(e.refusals, vm)
		}
	}
}
