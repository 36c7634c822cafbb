package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"vifproxy/internal/browsers"
)

const (
	sitesMax     = 64 // that are remembered; the one that was refused longest ago goes first
	targetsMax   = 32 // of one site
	shownTargets = 5  // of one site, in its notification: its buttons are for these
	shownSites   = 3  // that have a notification at once
	namedSites   = 5  // in the notification about the sites that have none

	drawBurst    = 6                // notifications at once, and
	drawInterval = 10 * time.Second // one more each time

	gatherTime   = 400 * time.Millisecond // from the first refusal of a site to its notification: a page asks for several hosts
	redrawTime   = 2 * time.Second        // between two of one site
	overflowTime = 20 * time.Second       // between two about the sites that have none
	waitMax      = 2 * time.Second        // for which a site waits for its notification; then it is among these
	quietTime    = time.Minute            // for which a target that was shown is not shown again
	noTime       = 10 * time.Minute       // for which it is not shown again if a person has closed the notification
	recentTime   = 10 * time.Minute       // for which a target is one that was refused lately
)

// A board decides which notifications there are. It knows neither clock nor desktop.
//
// It belongs to one goroutine.
type board struct {
	sites    map[string]*site
	draws    *rate.Limiter
	overflow struct {
		id    uint32
		drawn time.Time
		more  int // sites that were forgotten before they were shown
	}
}

// A site is what was refused of one.
type site struct {
	name    string
	targets []*shown  // the one that was refused last first
	more    int       // requests for targets that are not among these any more
	pending time.Time // since when it has something to show; zero: nothing
	drawn   time.Time
	id      uint32   // of its notification; 0: there is none
	offered []target // by the buttons of that
}

// shown is a target, and for how long it is not shown again.
type shown struct {
	target
	count int
	last  time.Time
	quiet time.Time
}

// A draw is a notification that is due.
type draw struct {
	site     *site // nil: it is about the sites that have none
	replaces uint32
	title    string
	lines    []string
	targets  []target // for which it has buttons
	sites    int      // that it is about, if it is about those that have none
}

func newBoard() *board {
	return &board{sites: map[string]*site{}, draws: rate.NewLimiter(rate.Every(drawInterval), drawBurst)}
}

// refuse takes note of a refusal.
func (b *board) refuse(r refusal, now time.Time) {
	s := b.sites[r.site]
	if s == nil {
		if len(b.sites) >= sitesMax {
			b.forget()
		}
		s = &site{name: r.site}
		b.sites[r.site] = s
	}
	i := slices.IndexFunc(s.targets, func(t *shown) bool { return t.target == r.target })
	if i < 0 {
		if len(s.targets) >= targetsMax {
			s.more += s.targets[targetsMax-1].count
			s.targets = s.targets[:targetsMax-1]
		}
		i = len(s.targets)
		s.targets = append(s.targets, &shown{target: r.target})
	}
	t := s.targets[i]
	copy(s.targets[1:i+1], s.targets[:i])
	s.targets[0] = t
	t.count++
	t.last = now
	if s.pending.IsZero() && !now.Before(t.quiet) {
		s.pending = now
	}
}

// forget makes room for a site: one without a notification.
func (b *board) forget() {
	oldest := slices.MinFunc(slices.Collect(maps.Values(b.sites)), func(a, c *site) int {
		return cmp.Or(cmp.Compare(min(a.id, 1), min(c.id, 1)), a.last().Compare(c.last()))
	})
	if !oldest.pending.IsZero() {
		b.overflow.more++
	}
	delete(b.sites, oldest.name)
}

func (s *site) last() time.Time { return s.targets[0].last }

// due returns the notifications that are due, and when to ask again; the zero time if nothing waits.
func (b *board) due(now time.Time) (draws []draw, again time.Time) {
	later := func(at time.Time) {
		if again.IsZero() || at.Before(again) {
			again = at
		}
	}
	open := 0
	var waiting []*site
	for _, s := range b.sites {
		if s.id != 0 {
			open++
		}
		if !s.pending.IsZero() {
			waiting = append(waiting, s)
		}
	}
	slices.SortFunc(waiting, func(a, c *site) int { return cmp.Or(a.pending.Compare(c.pending), cmp.Compare(a.name, c.name)) })
	var without []*site // a notification of their own
	for _, s := range waiting {
		at := s.pending.Add(gatherTime)
		if redraw := s.drawn.Add(redrawTime); redraw.After(at) {
			at = redraw
		}
		switch {
		case now.Before(at):
			later(at)
		case (s.id != 0 || open < shownSites) && b.draws.AllowN(now, 1):
			if s.id == 0 {
				open++
			}
			draws = append(draws, s.draw(now))
		default:
			without = append(without, s)
		}
	}
	if len(without) == 0 {
		return draws, again
	}
	at := without[0].pending.Add(waitMax)
	if redraw := b.overflow.drawn.Add(overflowTime); redraw.After(at) {
		at = redraw
	}
	if now.Before(at) {
		later(at)
		later(now.Add(waitMax)) // one may be closed meanwhile, or another draw be allowed
		return draws, again
	}
	return append(draws, b.sum(without, now)), again
}

// draw returns the notification of a site. Each target that it shows is quiet from now on.
func (s *site) draw(now time.Time) draw {
	d := draw{site: s, replaces: s.id, title: "Refused: " + s.name}
	more := 0
	for _, t := range s.targets {
		switch recent := now.Sub(t.last) < recentTime; {
		case recent && len(d.targets) < shownTargets:
			d.targets = append(d.targets, t.target)
			d.lines = append(d.lines, describe(t.target))
		case recent:
			more++
		}
		t.quiet = now.Add(quietTime)
	}
	if more > 0 {
		d.lines = append(d.lines, fmt.Sprintf("and %s more", count(more, "host")))
	}
	s.pending, s.drawn, s.offered = time.Time{}, now, d.targets
	return d
}

// describe returns a line about a target. It says if browsers are known to ask for the host by themselves, as no page may need it then.
func describe(t target) string {
	if purpose := browsers.Purpose(t.Host); purpose != "" {
		return fmt.Sprintf("%s (%s)", t, purpose)
	}
	return t.String()
}

// sum returns the notification about sites that have none of their own.
func (b *board) sum(sites []*site, now time.Time) draw {
	d := draw{replaces: b.overflow.id, sites: len(sites) + b.overflow.more}
	d.title = "Refused: " + count(d.sites, "more site")
	var names []string
	for i, s := range sites {
		if i < namedSites {
			names = append(names, s.name)
		}
		for _, t := range s.targets {
			t.quiet = now.Add(quietTime)
		}
		s.pending = time.Time{}
	}
	d.lines = []string{strings.Join(names, ", "), inATerminal}
	b.overflow.drawn, b.overflow.more = now, 0
	return d
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// drawn takes note of the number that the desktop has given to a notification; 0 if there is none.
func (b *board) drawn(d draw, id uint32) {
	if d.site == nil {
		b.overflow.id = id
		return
	}
	d.site.id = id
}

// undo takes note that a notification was not shown, so that it is tried again.
func (b *board) undo(d draw, now time.Time) {
	if d.site == nil {
		b.overflow.drawn, b.overflow.more = time.Time{}, d.sites
		return
	}
	s := d.site
	s.pending, s.drawn, s.id, s.offered = now, time.Time{}, 0, nil
	for _, t := range s.targets {
		t.quiet = time.Time{}
	}
}

// of returns the site that has the notification; nil if none has.
func (b *board) of(id uint32) *site {
	for _, s := range b.sites {
		if s.id == id && id != 0 {
			return s
		}
	}
	return nil
}

// pressed returns what the buttons of a notification are for; nil if it is none of ours.
func (b *board) pressed(id uint32) []target {
	if s := b.of(id); s != nil {
		return s.offered
	}
	return nil
}

// closed takes note that a notification is gone. A person who has closed it has said no.
func (b *board) closed(id uint32, byPerson bool, now time.Time) {
	if id == b.overflow.id {
		b.overflow.id = 0
	}
	s := b.of(id)
	if s == nil {
		return
	}
	s.id = 0
	if byPerson {
		for _, t := range s.targets {
			if slices.Contains(s.offered, t.target) {
				t.quiet = now.Add(noTime)
			}
		}
	}
	s.offered = nil
}

// allClosed takes note that another program shows notifications now.
func (b *board) allClosed() {
	b.overflow.id = 0
	for _, s := range b.sites {
		s.id, s.offered = 0, nil
	}
}

// permitted takes note that a target is not refused any more.
func (b *board) permitted(t target) {
	for name, s := range b.sites {
		s.targets = slices.DeleteFunc(s.targets, func(known *shown) bool { return known.target == t })
		if len(s.targets) == 0 {
			delete(b.sites, name)
		}
	}
}

// recent returns what was refused lately, newest first.
func (b *board) recent(now time.Time) (all []entry) {
	for _, s := range b.sites {
		for _, t := range s.targets {
			if now.Sub(t.last) < recentTime {
				all = append(all, entry{t.target, t.count, t.last})
			}
		}
	}
	slices.SortFunc(all, func(a, c entry) int { return cmp.Or(c.Last.Compare(a.Last), a.compare(c.target)) })
	return all[:min(len(all), entriesMax)]
}
