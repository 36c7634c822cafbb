// Package supervisor makes the firewall VM be what links and rule files say it should be.
//
// One loop owns all state. Events (netlink, inotify, exits, nft, SIGHUP, verbs) only wake it; it reads its inputs
// (netlink's where the event points, see early.go), computes what is desired (desired.go) and the difference to what
// there is (plan.go), both pure, and applies that difference in an order in which no binding ever points at a port where
// its own proxy does not listen (apply.go).
// What the loop cannot do at once, starting and stopping processes, runs in goroutines that end with it, and comes back
// as mail.
//
// The idea of hints instead of data is that of tailscale's net/netmon; of a bounded loop, kubernetes' proxies.
package supervisor

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/netwatch"
	"vifproxy/rules"
)

const (
	settle     = 10 * time.Millisecond  // editors write in bursts: read when this long nothing came
	settleMost = 100 * time.Millisecond // but do not wait for ever
	drainPoll  = time.Second            // how often retired processes are looked at
	readyBound = 3 * time.Second        // one slow proxy does not hold up the boot
	syncBound  = 10 * time.Second       // of one firewall write

	massStart = 8                     // proxies that are starting: none is served alone any more
	gather    = 20 * time.Millisecond // how long a plan for all waits for more news, while it is not urgent

	restAfter    = 10 * time.Second
	sleepAtLeast = 5 * time.Second
)

// Supervisor is the loop and its state.
type Supervisor struct {
	Config
	waker *waker
	done  chan struct{} // closed when Run has returned
	life  context.Context

	mail struct {
		sync.Mutex
		letters []func()
	}

	// Everything below belongs to the loop.
	inputs  Inputs
	cache   policyCache
	want    []*Desired
	vms     map[netip.Addr]*appVM
	ports   *ports
	holds   *firewall.State // what the firewall was last made to hold; nil: to be checked
	last    *firewall.State // the same, also where it is to be checked
	writing *write          // in force but not complete, or a check beside the loop
	trials  []*trial
	freed   []uint16 // ports of ended processes that the firewall may still know
	guard   guard
	forward *firewall.Forward // as last read; nil if never
	lastID  int
	running sync.WaitGroup // processes, and what goes on beside the loop

	examined struct { // connections that are being looked into
		sync.Mutex
		all int
		by  map[netip.Addr]int
	}

	agenda    agenda
	lastRound time.Time
	lastBoot  time.Duration // BootTime then
	planned   time.Time
	burst     time.Time    // when the changes of rules that are now settling were seen
	edited    time.Time    // when they were made: the loop may have been busy
	heard     time.Time    // when what this round is about was first heard of
	changed   bool         // mail changed something that the plan depends on
	up        []netip.Addr // AppVMs that a process has come up for just now
	troubles  troubles
	deafTo    map[string]Reason // inputs whose watchers do not work, by what these are called
	moved     struct {          // places that sandboxes do not know yet
		places string
		since  time.Time
	}
	writers map[string]time.Time // of files that are not complete, since when
	waiters []*waiter
	asked   []func(control.Status) // questions for the status
	keeping struct {               // of the record of stops
		busy bool           // it is being written
		told []chan<- error // how the next write went
	}
	hosts   map[string]*host
	exits   []Exit            // of the last plan
	fenced  firewall.Fence    // that follows from them
	cleaned bool              // what an earlier run left in connection tracking is forgotten
	refused map[uint32]uint64 // by the fence, by uid
	ready   bool              // and systemd knows
	gaveUp  error             // why the daemon ends, for systemd to start it again
	summary string            // as last told to systemd
	states  map[identity]stateSince
}

// New makes a supervisor; Run runs it.
func New(c Config) *Supervisor {
	s := &Supervisor{
		Config: c,
		waker:  newWaker(),
		done:   make(chan struct{}),

		troubles: troubles{},
		deafTo:   map[string]Reason{},
		writers:  map[string]time.Time{},
		inputs:   Inputs{Restarts: map[netip.Addr]int{}, Temporary: map[identity]map[rules.Host]time.Duration{}},
		cache:    policyCache{},
		vms:      map[netip.Addr]*appVM{},
		hosts:    map[string]*host{},
		ports:    newPorts(c.Ports),

		states: map[identity]stateSince{},
	}
	s.examined.by = map[netip.Addr]int{}
	if c.Events != nil {
		c.Events.ExamineBy(s.examine)
	}
	return s
}

// Wake tells the loop to look again. It never blocks and may be called from anywhere, also before Run.
func (s *Supervisor) Wake(r Reason) { s.waker.wake(r) }

// Hint is Wake(Links) where it is known where to look.
func (s *Supervisor) Hint(h netwatch.Hint) { s.waker.hint(h) }

// Run reconciles until ctx ends, then takes everything away. Its error is of that taking away, or why only a new start helps.
func (s *Supervisor) Run(ctx context.Context) error {
	defer close(s.done)
	s.life = ctx
	s.agenda.at(dueReady, time.Now().Add(readyBound))
	s.readStops(time.Now())
	s.Wake(Force)
	timer := time.NewTimer(s.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.shutdown()
		case <-s.waker.slot:
		case <-timer.C:
		}
		timer.Reset(time.Until(s.round(time.Now())))
		if s.gaveUp != nil {
			s.notify("STATUS=" + s.gaveUp.Error())
			return errors.Join(s.gaveUp, s.shutdown())
		}
	}
}

// round does what there is to do now and returns when to look again.
func (s *Supervisor) round(now time.Time) time.Time {
	s.notify("WATCHDOG=1")
	s.readMail()
	boot := s.BootTime()
	if !s.lastRound.IsZero() && slept(now.Sub(s.lastRound), boot-s.lastBoot) {
		s.Wake(Force) // a resume may bring no event at all
	}
	s.lastRound, s.lastBoot = now, boot
	if s.agenda.take(dueIdle, now) {
		s.Rest()
	}
	if reasons := s.pollDeaf(s.waker.take(), now); reasons.has(Force) || s.agenda.isDue(now, dueResync) {
		s.resync(now)
	} else {
		if reasons.has(Rules) { // before the links: an AppVM that comes waits for rules that are about to be read
			s.expectRules(reasons.first, reasons.last, now)
		}
		if !reasons.has(Links) && s.heed(reasons.hints, now) {
			reasons.Reason |= Links
		}
		s.schedule(reasons.Reason, now)
	}
	if s.agenda.take(dueStops, now) {
		s.tryStops(now)
	}
	s.askAgain(now)
	s.welcome(now)
	if s.read(now) {
		s.reconcile(now)
	}
	if !s.checking() {
		s.guard.rest(now)
	}
	if s.agenda.take(dueAnswers, now) {
		s.answerAll(now)
	}
	return s.next(now)
}

// slept reports whether the machine was suspended for long while so much time passed: the monotonic clock stands still
// meanwhile, and that of the boot time does not (clock_gettime(2)).
func slept(monotonic, boot time.Duration) bool { return boot-monotonic > sleepAtLeast }

// reconcile computes the difference between what should be and what is, and does it.
func (s *Supervisor) reconcile(now time.Time) {
	s.planned = now
	s.pollRetired(now) // so that of many older processes those that nobody needs go first
	before := s.want
	s.want = desired(s.inputs, s.cache)
	s.tellNews(before)
	s.forgetPast(before)
	s.haveNewcomersWait(now)
	s.prune()
	p := plan(s.want, s.actual(), now, s.Limits)
	if s.guard.unfenced != nil {
		p = unfenced(s.actual())
	}
	s.agenda.at(duePlan, p.Next)
	s.apply(p, now)
	s.report(now, s.atRest())
	s.agenda.at(dueIdle, now.Add(restAfter))
}

// next returns when the loop is to look again if nothing happens.
func (s *Supervisor) next(now time.Time) time.Time {
	next := s.agenda.next(now.Add(s.Interval))
	for _, h := range s.hosts {
		next = earlier(next, h.again)
	}
	return next
}

func (s *Supervisor) notify(state string) {
	if s.Notify != nil {
		s.Notify(state)
	}
}

// post leaves something for the loop to do. It is how other goroutines reach the loop's state.
func (s *Supervisor) post(letter func()) {
	s.mail.Lock()
	s.mail.letters = append(s.mail.letters, letter)
	s.mail.Unlock()
	s.Wake(Mail)
}

func (s *Supervisor) readMail() {
	s.mail.Lock()
	letters := s.mail.letters
	s.mail.letters = nil
	s.mail.Unlock()
	for _, letter := range letters {
		letter()
	}
}
