package plan

import (
	"maps"
	"slices"
	"time"

	"vifproxy/internal/policy"
)

const (
	// movedFor is how long another page has to be there until that is believed: who writes several makes them one after another.
	movedFor = 10 * time.Millisecond
	// goneFor is the same if nothing is there: some programs take a file away and make it again, and a service that restarts does so with
	// its directory in /run. Every change costs a new process for each AppVM that it concerns.
	goneFor = 100 * time.Millisecond
)

// Pages returns the files that templates make tinyproxy read while it serves, each once: for what should be there, and for good policies,
// some of which may be nil.
func Pages(want []*Desired, good []*policy.Policy) (files []string) {
	for _, d := range want {
		good = append(good, d.Policy)
	}
	for _, p := range good {
		if p != nil {
			files = append(files, p.Config.PageFiles...)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

// Moved is a change of what sandboxes depend on that nobody believes yet. The zero value is ready.
type Moved struct {
	places policy.Places
	since  time.Time
}

// Believe returns the places to plan with, and when to look again; the zero time if there is no need. known are those that were believed
// before, and seen those that somebody has just looked at. A page that nobody has looked at before is believed at once.
func (m *Moved) Believe(known, seen policy.Places, now time.Time) (believed policy.Places, next time.Time) {
	believed = maps.Clone(seen)
	var wait time.Duration
	for path, was := range known {
		if is, asked := seen[path]; asked && is != was {
			believed[path] = was
			if wait = max(wait, movedFor); is == "" {
				wait = goneFor
			}
		}
	}
	switch {
	case wait == 0:
		*m = Moved{}
		return believed, next
	case !maps.Equal(seen, m.places):
		*m = Moved{seen, now}
	case now.Sub(m.since) >= wait:
		*m = Moved{}
		return seen, next
	}
	return believed, m.since.Add(wait)
}
