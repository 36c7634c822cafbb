// Package uses counts for each line of a list how often it has let a request pass, and when last. A person is told which lines nobody
// needs; nothing is decided by it. An AppVM chooses the names, and one that owns its proxy makes the requests up. So what is remembered
// is bounded, and what was not read is said.
//
// A request counts for each line that matches its host. Which lines nobody needs is for the client to say: see package review.
//
// Time counts for a list while an AppVM of it is connected, the daemon runs, and all requests are read. If requests of a list were lost,
// none of the time since the list was last looked at counts.
//
// Concurrency: the methods of a [Book] may be called from any goroutine. A nil one may be told and asked too: Note does nothing then,
// and Of returns nothing. Saw and Note never wait for more than the lock, which nobody holds for long. One goroutine, that of [Book.Match], says which lines match a host.
package uses

import (
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/rules"
	"vifproxy/rules/match"
)

const (
	// hostsMax is how many hosts of one list are remembered. If there are more, those that were asked for longest ago go, and the lines
	// that let them pass keep their counts.
	hostsMax = 256
	// allHostsMax is how many are remembered of all lists together: each list has its share, but hostsMin at least.
	allHostsMax = 20000
	hostsMin    = 16
	// linesOfHostMax is how many lines of a list one request may count for.
	linesOfHostMax = 64
	// absentMax is how long a list that has gone is remembered: an editor may take a file away and write it anew, and AppVMs of
	// a range come and go.
	absentMax = 30 * 24 * time.Hour
	// absentListsMax is how many of these are remembered.
	absentListsMax = 64
)

// A Book is what is remembered of all lists.
type Book struct {
	path string

	mu      sync.Mutex
	lists   map[string]*usedList     // by the paths of lists
	of      map[netip.Addr]*usedList // by the AppVMs that have them now
	seen    map[netip.Addr]*policy.Policy
	work    chan struct{} // has a token if Match has something to do
	changed chan struct{} // has a token if the file is older than the book
}

// A usedList is what is remembered of one list.
type usedList struct {
	path        string
	uncountable string
	begun       time.Time
	counted     time.Duration // see the package comment
	mark        time.Time     // until when counted is right
	here        int           // AppVMs that are connected
	absent      time.Time     // since when there is no such list; zero if there is one
	missed      bool          // requests were lost since mark
	lost        int
	lastLost    time.Time

	lines   map[lineKey]*line
	rules   []lineKey      // as tinyproxy reads them
	matcher *match.Matcher // of rules; nil until Match has made it
	syntax  rules.Syntax
	hosts   map[string]*list.Element // by what the AppVM has sent
	newest  list.List                // of *host, newest first
	waiting []*host                  // whose lines are not known yet
}

// A lineKey is a line of a list, whatever stands above it: of which file, and what tinyproxy reads.
type lineKey struct{ path, pattern string }

type line struct {
	began       time.Duration // usedList.counted when it came
	count       int           // without those of hosts
	first, last time.Time
	more        bool
}

type host struct {
	name        string
	count       int
	first, last time.Time
	known, gone bool
	lines       []lineKey
}

// newBook returns an empty Book.
func newBook(path string) *Book {
	return &Book{path: path, lists: map[string]*usedList{}, of: map[netip.Addr]*usedList{}, seen: map[netip.Addr]*policy.Policy{},
		work: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

func newList(path string, now time.Time) *usedList {
	return &usedList{path: path, begun: now, mark: now, lines: map[lineKey]*line{}, hosts: map[string]*list.Element{}}
}

// wake leaves a token.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Note takes in which lists there are, and which AppVMs are connected. A list that cannot be used stays as it was.
func (b *Book) Note(want []*plan.Desired) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	here, of := map[*usedList]int{}, make(map[netip.Addr]*usedList, len(want))
	for _, d := range want {
		if !d.Addr.IsValid() || d.Path == "" {
			continue
		}
		l := b.lists[d.Path]
		if l == nil {
			l = newList(d.Path, now)
			b.lists[d.Path] = l
		}
		l.absent = time.Time{}
		of[d.Addr] = l
		if d.Connected() {
			here[l]++
		}
		if d.Policy != nil && b.seen[d.Addr] != d.Policy {
			b.seen[d.Addr] = d.Policy
			b.take(l, d.Policy, now)
		}
	}
	maps.DeleteFunc(b.seen, func(addr netip.Addr, _ *policy.Policy) bool { return of[addr] == nil })
	b.of = of
	listed := map[*usedList]bool{}
	for _, l := range of {
		listed[l] = true
	}
	for _, l := range b.lists {
		if here[l] != l.here {
			l.advance(now)
			l.here = here[l]
		}
		if !listed[l] && l.absent.IsZero() {
			l.absent = now
		}
	}
	b.forget(now)
}

// forget forgets lists that have been absent for long, or of which there are many. The caller holds mu.
func (b *Book) forget(now time.Time) {
	var absent []*usedList
	for path, l := range b.lists {
		switch {
		case l.absent.IsZero():
		case now.Sub(l.absent) > absentMax:
			delete(b.lists, path)
		default:
			absent = append(absent, l)
		}
	}
	slices.SortFunc(absent, func(x, y *usedList) int { return y.absent.Compare(x.absent) })
	for _, l := range absent[min(len(absent), absentListsMax):] {
		delete(b.lists, l.path)
	}
}

// advance counts the time until now.
func (l *usedList) advance(now time.Time) {
	if l.here > 0 && !l.missed && now.After(l.mark) {
		l.counted += now.Sub(l.mark)
	}
	l.mark, l.missed = now, false
}

// take takes in what a list says. The caller holds mu.
func (b *Book) take(l *usedList, p *policy.Policy, now time.Time) {
	f := p.Config.Filter
	switch {
	case !f.Enabled || !f.DefaultDeny:
		l.uncountable = "the list says what is forbidden, and a host that is permitted needs no line"
	case f.URLs:
		l.uncountable = "the template `config` has FilterURLs, and the proxy does not log URLs"
	default:
		l.uncountable = ""
	}
	if l.uncountable != "" {
		l.rules, l.matcher, l.waiting = nil, nil, nil
		return
	}
	keys := keysOf(p)
	syntax := policy.SyntaxOf(f.Compiled())
	if l.rules != nil && slices.Equal(keys, l.rules) && syntax == l.syntax {
		return
	}
	l.advance(now)
	there := make(map[lineKey]bool, len(keys))
	for _, key := range keys {
		there[key] = true
		if l.lines[key] == nil {
			l.lines[key] = &line{began: l.counted}
		}
	}
	maps.DeleteFunc(l.lines, func(key lineKey, _ *line) bool { return !there[key] })
	l.rules, l.syntax, l.matcher = keys, syntax, nil
	wake(b.work)
	wake(b.changed)
}

// keysOf returns the lines of a policy that its list has for good.
func keysOf(p *policy.Policy) []lineKey {
	keys := []lineKey{} // not nil, which is a list that was not read
	for _, r := range p.Rules {
		if r.Number == 0 { // for a time
			continue
		}
		path := r.Part
		if path == "" {
			path = p.RulesPath
		}
		keys = append(keys, lineKey{path, r.Text})
	}
	return keys
}

// Saw counts a request that the list of an AppVM has let pass. An empty host is one that is not known. Saw never waits for the matcher.
func (b *Book) Saw(v events.Visit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.of[v.IP]
	if l == nil || l.uncountable != "" {
		return
	}
	now := time.Now()
	if v.Host == "" {
		l.lose(1, now)
		return
	}
	wake(b.changed)
	if e := l.hosts[v.Host]; e != nil {
		h := e.Value.(*host)
		h.count++
		h.last = now
		l.newest.MoveToFront(e)
		return
	}
	for len(l.hosts) >= max(hostsMin, min(hostsMax, allHostsMax/len(b.lists))) {
		l.drop(l.newest.Back(), now)
	}
	h := &host{name: strings.Clone(v.Host), count: 1, first: now, last: now}
	l.hosts[h.name] = l.newest.PushFront(h)
	l.waiting = append(l.waiting, h)
	wake(b.work)
}

// lose notes that requests were not counted.
func (l *usedList) lose(n int, now time.Time) {
	l.lost += n
	l.lastLost, l.missed = now, true
}

// drop forgets a host. Its lines keep what they have counted for it. If nobody knows them yet, its requests are lost; if these began before
// mark, all lines are counted anew, because any of them may have been used in the time that counts already.
func (l *usedList) drop(e *list.Element, now time.Time) {
	h := l.newest.Remove(e).(*host)
	delete(l.hosts, h.name)
	h.gone = true
	if !h.known {
		l.lose(h.count, now)
		if h.first.Before(l.mark) {
			for _, at := range l.lines {
				at.began = l.counted
			}
		}
		if len(l.waiting) > 2*hostsMax {
			l.waiting = slices.DeleteFunc(l.waiting, func(h *host) bool { return h.gone })
		}
		return
	}
	for _, key := range h.lines {
		if at := l.lines[key]; at != nil {
			at.add(h)
			at.more = true
		}
	}
}

// add counts what a host has counted.
func (at *line) add(h *host) {
	at.count += h.count
	if at.first.IsZero() || h.first.Before(at.first) {
		at.first = h.first
	}
	if h.last.After(at.last) {
		at.last = h.last
	}
}
