package cache

import (
	"container/list"
	"net/netip"
	"time"

	"vifproxy/names/ask"
)

const (
	namesMax    = 1024      // of one AppVM
	bytesMax    = 512 << 10 // of one AppVM
	recordBytes = 400       // of a name, beside the name itself and what follows
	addrBytes   = 24        // of an address
	errorBytes  = 256       // of an error

	ttlMin      = time.Second // for which an answer is true at least: one of 0 s costs two questions for each request of the AppVM
	ttlMax      = time.Hour   // and at most
	negativeMax = time.Minute // for which a negative answer is true
	staleMax    = 24 * time.Hour
	failureTime = time.Second     // until a name is asked for again that has no answer (RFC 9520, 3.2)
	recheckTime = 5 * time.Second // the same, if there is a stale answer

	prefetchShare = 10 // the last part of the time for which an answer is true, one in so many
	prefetchMin   = 10 * time.Second
)

// A family is one of the two that a name may have addresses of.
type family int

const (
	four family = iota
	six
)

// A store is what is known of names. It is pure: the time is passed. It belongs to one goroutine at a time.
type store struct {
	records map[string]*list.Element
	used    list.List // of *record, the last used one first
	bytes   int
}

// A record is what is known of one name.
type record struct {
	name     string
	families [2]entry
}

// An entry is what is known of the addresses of a name of one family. The zero entry knows nothing.
type entry struct {
	addrs   []netip.Addr
	none    bool // there are no addresses; nothing is known if there are no addrs either
	nobody  bool // there are no other records either
	version int  // of the asker that said so
	came    time.Time
	ttl     time.Duration // for which it is true since then
	err     error         // why a later question has no answer
	failed  time.Time     // when that was
}

// get returns what is known of a name, nil if nothing is, and notes that it is in use.
func (s *store) get(name string) *record {
	element := s.records[name]
	if element == nil {
		return nil
	}
	s.used.MoveToFront(element)
	return element.Value.(*record)
}

// put keeps an answer.
func (s *store) put(name string, f family, answer ask.Answer, version int, now time.Time) {
	s.set(name, f, entry{addrs: answer.Addrs, none: len(answer.Addrs) == 0, nobody: answer.NoSuchName, version: version, came: now,
		ttl: trueFor(answer)})
}

// trueFor returns for how long an answer is true.
func trueFor(answer ask.Answer) time.Duration {
	most := ttlMax
	if len(answer.Addrs) == 0 {
		most = negativeMax
	}
	return min(max(answer.TTL, ttlMin), most)
}

// fail keeps why there is no answer, beside the one that was there before.
func (s *store) fail(name string, f family, err error, now time.Time) {
	var e entry
	if element := s.records[name]; element != nil {
		e = element.Value.(*record).families[f]
	}
	e.err, e.failed = err, now
	s.set(name, f, e)
}

func (s *store) set(name string, f family, e entry) {
	if s.records == nil {
		s.records = map[string]*list.Element{}
	}
	element := s.records[name]
	if element == nil {
		element = s.used.PushFront(&record{name: name})
		s.records[name] = element
		s.bytes += recordBytes + len(name)
	}
	r := element.Value.(*record)
	s.bytes += e.bytes() - r.families[f].bytes()
	r.families[f] = e
	for len(s.records) > namesMax || s.bytes > bytesMax {
		oldest := s.used.Remove(s.used.Back()).(*record)
		delete(s.records, oldest.name)
		s.bytes -= recordBytes + len(oldest.name) + oldest.families[four].bytes() + oldest.families[six].bytes()
	}
}

func (e *entry) bytes() int {
	n := addrBytes * len(e.addrs)
	if e.err != nil {
		n += errorBytes
	}
	return n
}

// left returns for how long the entry is still true; not above 0 if it is not.
func (e *entry) left(version int, now time.Time) time.Duration {
	if e.version != version || len(e.addrs) == 0 && !e.none {
		return 0
	}
	return e.came.Add(e.ttl).Sub(now)
}

// stale reports whether the entry has addresses that are given out while no server answers (RFC 8767).
func (e *entry) stale(now time.Time) bool {
	return len(e.addrs) > 0 && now.Before(e.came.Add(e.ttl+staleMax))
}

// failing reports whether the last question has no answer, and it is too early for another one.
func (e *entry) failing(now time.Time) bool {
	pause := failureTime
	if e.stale(now) {
		pause = recheckTime
	}
	return e.err != nil && now.Before(e.failed.Add(pause))
}

// ending reports whether the entry is to be asked for again, although it is still true: it is in use, and ends soon.
func (e *entry) ending(left time.Duration, now time.Time) bool {
	return e.ttl >= prefetchMin && left < e.ttl/prefetchShare && !now.Before(e.failed.Add(recheckTime))
}
