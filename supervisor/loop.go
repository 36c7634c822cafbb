package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/agenda"
	"vifproxy/internal/beat"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/news"
	"vifproxy/internal/plan"
	"vifproxy/internal/policy"
	"vifproxy/internal/proxies"
	"vifproxy/internal/trials"
	"vifproxy/internal/upstreams"
)

const (
	readyTimeout = 3 * time.Second  // one slow proxy does not hold up the boot
	idleDelay    = 10 * time.Second // without anything that happens, until memory is given back
	suspendMin   = 5 * time.Second  // that the machine was suspended, for everything to be read
)

// A loop owns all state. It is a variable in Run and an argument of letters, and is stored nowhere, so no other goroutine has it.
type loop struct {
	Config
	mail    *box
	life    context.Context    // ends when the loop has to end, or has called over
	over    context.CancelFunc // so nothing beside the loop waits for a name server
	running sync.WaitGroup     // processes, and what goes on beside the loop

	inputs  plan.Inputs
	cache   plan.Cache
	want    []*plan.Desired
	vms     map[netip.Addr]*appVM
	ports   *proxies.Ports
	holds   *firewall.State // what the firewall was last made to hold; nil if that has to be checked
	last    *firewall.State // the same, also if it has to be checked
	writing *write          // in force but not complete, or a check beside the loop
	trials  trials.List
	slots   proxies.Slots
	freed   []uint16 // ports of ended processes that the firewall may still know
	guard   guard
	forward *firewall.Forward // as last read; nil if never
	lastID  int
	agenda  agenda.Agenda

	writeTimeout time.Duration // of one write of the firewall
	patience     time.Duration // until the loop asks itself whether processes can wait for a write

	lastRound time.Time
	lastBoot  time.Duration // Clock.Now then
	plannedAt time.Time     // of the last plan for all
	burstAt   time.Time     // when the loop saw the changes of rules that are now settling
	editedAt  time.Time     // when they were made, as the loop may have been busy
	heardAt   time.Time     // when the loop first heard of what this round is about
	changed   bool          // mail changed something that the plan depends on
	justUp    []netip.Addr  // AppVMs whose process has just come up
	troubles  news.Troubles
	unwatched map[string]mailbox.Reason // inputs whose watchers do not work, by the names of these
	moved     plan.Moved
	writers   news.Writers
	waiters   []*waiter
	questions []func(control.Status) // for the status
	keeping   struct {               // of the record of stops
		busy bool           // it is being written
		told []chan<- error // how the next write went
	}
	upstreams  upstreams.Memory
	allowances []policy.Allowance // of the last plan
	fenced     firewall.Fence     // that follows from them
	cleaned    bool               // what an earlier run left in connection tracking is forgotten
	refused    map[uint32]uint64  // by the fence, by uid
	ready      bool               // and systemd knows
	gaveUp     error              // why the daemon ends, for systemd to start it again
	summary    string             // as last told to systemd
	states     news.States
}

func newLoop(life context.Context, c Config, m *box) *loop {
	life, over := context.WithCancel(life)
	return &loop{
		Config: c, mail: m, life: life, over: over, writeTimeout: syncTimeout, patience: checkTimeout,
		troubles:  news.Troubles{},
		unwatched: map[string]mailbox.Reason{},
		writers:   news.Writers{},
		inputs:    plan.Inputs{Restarts: map[netip.Addr]int{}, Temporary: plan.Temporary{}},
		cache:     plan.Cache{},
		slots:     proxies.Slots{},
		vms:       map[netip.Addr]*appVM{},
		ports:     proxies.NewPorts(c.Ports),
		states:    news.States{},
	}
}

func (l *loop) run() error {
	l.agenda.At(agenda.Ready, time.Now().Add(readyTimeout))
	l.readStops(time.Now())
	l.mail.Wake(mailbox.Force)
	timer := time.NewTimer(l.Heartbeat)
	defer timer.Stop()
	for {
		select {
		case <-l.life.Done():
		case <-l.mail.Slot():
		case <-timer.C:
		}
		if l.life.Err() != nil { // whatever else has come
			return l.shutdown()
		}
		timer.Reset(time.Until(l.round(time.Now())))
		if l.gaveUp != nil {
			l.notifyStatus(l.gaveUp.Error())
			return errors.Join(l.gaveUp, l.shutdown())
		}
	}
}

// round does what there is to do now, and returns when to look again.
func (l *loop) round(now time.Time) time.Time {
	l.notify("WATCHDOG=1")
	for _, letter := range l.mail.Letters() {
		letter(l)
	}
	boot := l.Clock.Now()
	if !l.lastRound.IsZero() && slept(now.Sub(l.lastRound), boot-l.lastBoot) {
		l.mail.Wake(mailbox.Force) // a resume may bring no event at all
	}
	l.lastRound, l.lastBoot = now, boot
	if l.agenda.Take(agenda.Idle, now) {
		l.Rest()
	}
	if reasons := l.pollUnwatched(l.mail.Take(), now); reasons.Has(mailbox.Force) || l.agenda.IsDue(now, agenda.Resync) {
		l.resync(now)
	} else {
		if reasons.Has(mailbox.Rules) { // before the links: an AppVM that comes waits for rules that are about to be read
			l.expectRules(reasons.First, reasons.Last, now)
		}
		if !reasons.Has(mailbox.Links) && l.followHints(reasons.Hints, now) {
			reasons.Reason |= mailbox.Links
		}
		l.schedule(reasons.Reason, now)
	}
	if l.agenda.Take(agenda.Stops, now) {
		l.tryStops(now)
	}
	l.askForUpstreams(now)
	l.bindNew(now)
	if l.read(now) {
		l.reconcile(now)
	}
	if !l.checking() {
		l.guard.EndRound(now, time.Now())
	}
	if l.agenda.Take(agenda.Answers, now) {
		l.answerAll(now)
	}
	return l.upstreams.Next(l.agenda.Next(beat.Next(now, l.Heartbeat)))
}

// slept reports whether the machine was suspended for long while these times passed: a suspend stops the monotonic clock, but not the
// clock of the boot time (clock_gettime(2)).
func slept(monotonic, boot time.Duration) bool { return boot-monotonic > suspendMin }

// reconcile computes the difference between what should be and what is, and does it.
func (l *loop) reconcile(now time.Time) {
	l.plannedAt = now
	l.pollRetired(now) // so that of many older processes those without clients go first
	before := l.want
	l.want = l.desired(now)
	news.EmitChanges(l.Events, l.Sightings, before, l.want)
	l.Uses.Note(l.want)
	l.inputs.Lessons.Settle(l.want, l.whyNot)
	l.forgetRestarted(before)
	l.holdNewcomers(now)
	l.prune()
	p := plan.Of(l.want, l.actual(), now, l.Limits)
	if l.guard.unfenced != nil {
		p = plan.Unfenced(l.actual())
	}
	l.agenda.At(agenda.Plan, p.Next)
	l.apply(p, now)
	l.report(now, l.atRest())
	l.agenda.At(agenda.Idle, now.Add(idleDelay))
}
