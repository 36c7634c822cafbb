package events

import (
	"container/list"
	"encoding/json"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/internal/browsers"
)

// An AppVM can ask in vain as often and for as many names as it likes. So each has a list of its own, which holds at most
// DeniedHostsMax entries of 1020 bytes for the host and as many for the reason (see Denial): 600 KB. Nothing that one AppVM does
// changes the list of another.
const (
	DeniedHostsMax = 256
	deniedBurst    = 20 // events, to the journal and to those who watch
	deniedRate     = 1  // events a second; connections that are looked into as well
	deniedReserve  = 10 // of the burst, for hosts that no browser asks for by itself
)

// A deniedList is what one AppVM was denied.
type deniedList struct {
	hosts     map[deniedKey]*list.Element
	newest    list.List // of *DeniedHost, newest first
	forgotten int       // requests for hosts that have been pushed out

	events   *rate.Limiter
	notShown int           // requests since the last event that made none
	looks    *rate.Limiter // at what became of connections
}

// A deniedKey is what requests that are counted together have in common.
type deniedKey struct {
	host   string
	port   uint16
	reason Reason
}

// add counts one request. It returns what is known of requests like it, whether to emit an event, and how many before it made
// none.
func (l *deniedList) add(d DeniedHost, now time.Time) (known DeniedHost, emit bool, notShown int) {
	key := deniedKey{d.Host, d.Port, d.Reason}
	if e := l.hosts[key]; e != nil {
		l.newest.MoveToFront(e)
	} else {
		if len(l.hosts) == DeniedHostsMax {
			oldest := l.newest.Remove(l.newest.Back()).(*DeniedHost)
			delete(l.hosts, deniedKey{oldest.Host, oldest.Port, oldest.Reason})
			l.forgotten += oldest.Count
		}
		l.hosts[key] = l.newest.PushFront(&DeniedHost{Host: d.Host, Port: d.Port, Reason: d.Reason,
			Browser: browsers.Purpose(d.Host), First: now})
	}
	entry := l.newest.Front().Value.(*DeniedHost)
	if d.What != "" || entry.What == "" { // else it was not looked into this time
		entry.What, entry.Why = d.What, d.Why
	}
	entry.Count++
	entry.Last = now
	if entry.Browser != "" && l.events.TokensAt(now) <= deniedReserve || !l.events.AllowN(now, 1) {
		l.notShown++
		return *entry, false, 0
	}
	notShown, l.notShown = l.notShown, 0
	return *entry, true, notShown
}

// since returns the hosts that were denied then or later, newest first. Hosts that browsers ask for by themselves come behind
// all others, because a person looks for what a page misses.
func (l *deniedList) since(then time.Time) []DeniedHost {
	hosts, background := []DeniedHost{}, []DeniedHost(nil)
	for e := l.newest.Front(); e != nil; e = e.Next() {
		h := e.Value.(*DeniedHost)
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

// listOf returns the list of an AppVM. The caller holds mu.
func (e *Emitter) listOf(vm netip.Addr) *deniedList {
	l := e.denied[vm]
	if l == nil {
		l = &deniedList{hosts: map[deniedKey]*list.Element{},
			events: rate.NewLimiter(deniedRate, deniedBurst), looks: rate.NewLimiter(deniedRate, deniedBurst)}
		e.denied[vm] = l
	}
	return l
}

// DeniedTo returns what an AppVM was denied since then, and how many requests are not listed any more.
func (e *Emitter) DeniedTo(vm netip.Addr, since time.Time) (hosts []DeniedHost, forgotten int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.denied[vm]; l != nil {
		return l.since(since), l.forgotten
	}
	return []DeniedHost{}, 0
}

// Forget drops the lists of the AppVMs for which gone reports true.
func (e *Emitter) Forget(gone func(vm netip.Addr) bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for vm := range e.denied {
		if gone(vm) {
			delete(e.denied, vm)
		}
	}
}

// deniedMax bounds an answer with the lists of all AppVMs, in bytes of JSON. AppVMs choose the names, and a client takes 16 MiB.
const deniedMax = 8 << 20

// Bound leaves each AppVM its share of an answer, with the newest hosts, and counts the others as forgotten.
func Bound(all []Denied) {
	for i := range all {
		d, size := &all[i], 0
		for n, host := range d.Hosts {
			text, _ := json.Marshal(host)
			if size += len(text) + 1; size > deniedMax/len(all) {
				for _, more := range d.Hosts[n:] {
					d.Forgotten += more.Count
				}
				d.Hosts = d.Hosts[:n]
				break
			}
		}
	}
}
