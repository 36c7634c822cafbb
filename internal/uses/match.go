package uses

import (
	"context"
	"time"

	"vifproxy/rules/match"
)

const (
	// restPart is how often longer Match rests than it works, because hosts that an AppVM makes up can take long to be compared.
	restPart = 9
	// restMin is how long Match rests at least: work that took less is added up.
	restMin = 5 * time.Millisecond
)

// Match finds the lines that match hosts, until ctx ends. Lists take turns, so one whose AppVM asks for names without end delays no other
// for long. It takes a tenth of a CPU at most.
func (b *Book) Match(ctx context.Context) {
	var owed time.Duration
	for {
		began := time.Now()
		more := b.matchOne()
		if owed += restPart * time.Since(began); owed >= restMin || !more {
			timer := time.NewTimer(owed)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			owed = 0
		}
		if !more {
			select {
			case <-b.work:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// matchOne looks at one host of each list, and reports whether there may be more to do. The matcher works without the lock.
func (b *Book) matchOne() (more bool) {
	b.mu.Lock()
	lists := make([]*usedList, 0, len(b.of))
	for _, l := range b.of {
		lists = append(lists, l)
	}
	b.mu.Unlock()
	for _, l := range lists {
		more = b.matchOf(l) || more
	}
	return more
}

// matchOf looks at the next host of a list, or makes the matcher of that.
func (b *Book) matchOf(l *usedList) (worked bool) {
	b.mu.Lock()
	keys, matcher, syntax, hosts := l.rules, l.matcher, l.syntax, l.newest.Len()
	var next *host
	if matcher != nil {
		for len(l.waiting) > 0 && next == nil {
			next, l.waiting = l.waiting[0], l.waiting[1:]
			if next.gone {
				next = nil
			}
		}
	}
	b.mu.Unlock()
	same := func() bool { // the list has not changed meanwhile
		return l.rules != nil && len(keys) == len(l.rules) && (len(keys) == 0 || &keys[0] == &l.rules[0])
	}
	switch {
	case matcher == nil && keys != nil && hosts > 0: // a list that is not used needs no matcher
		patterns := make([]string, len(keys))
		for i, key := range keys {
			patterns[i] = key.pattern
		}
		matcher = match.New(patterns, syntax)
		b.mu.Lock()
		defer b.mu.Unlock()
		if same() {
			l.matcher = matcher
			l.again()
		}
		return true
	case next == nil:
		return false
	}
	found := matcher.Lines(next.name, linesOfHostMax+1)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case next.gone: // and it was lost
	case !same():
		l.waiting = append(l.waiting, next)
	default:
		l.knows(next, keys, found)
	}
	return true
}

// again has all hosts be compared with a list that has changed. Lines that stay keep what they have counted for hosts.
func (l *usedList) again() {
	l.waiting = nil
	for e := l.newest.Back(); e != nil; e = e.Prev() {
		h := e.Value.(*host)
		l.waiting = append(l.waiting, h)
	}
}

// knows takes in which lines match a host.
func (l *usedList) knows(h *host, keys []lineKey, found []int) {
	if len(found) > linesOfHostMax {
		l.lose(h.count, h.last)
		found = found[:linesOfHostMax]
	}
	h.known, h.lines = true, make([]lineKey, len(found))
	for i, number := range found {
		h.lines[i] = keys[number]
	}
	if len(found) == 0 { // only a lesson, or a line for a time, has let it pass
		l.newest.Remove(l.hosts[h.name])
		delete(l.hosts, h.name)
		h.gone = true
	}
}
