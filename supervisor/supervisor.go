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
	"slices"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/stops"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// Proxies starts proxies. It is an interface so that the loop's tests need no processes.
type Proxies interface {
	// Start returns once the proxy listens on the policy's gateway at port. The error of a policy that
	// tinyproxy refused is Bad (see isBad).
	Start(ctx context.Context, p *Policy, port uint16) (Proxy, error)
	// Try is Start for a proxy that is asked one question and ends then. It has the uid that is given, and no part in the files
	// of the AppVM.
	Try(ctx context.Context, p *Policy, uid uint32, port uint16, q tinyproxy.Request) (Trial, error)
	// Forget is told that nothing runs under an AppVM's name any more.
	Forget(name string)
}

// Proxy is a process that listens, or has ended.
type Proxy interface {
	PID() int
	Done() <-chan struct{}
	WhenDone(func())                    // called when Done is closed
	Err() error                         // why it ended
	Stop()                              // asks it to end, then makes it; returns when nothing of it is left
	Kill()                              // the same without asking
	Clients() ([]netip.AddrPort, error) // the far ends of its AppVM's connections
	// Listens is nil if the kernel says that its port is its own.
	Listens(sockdiag.Listeners) error
	// Current makes it the one that serves: what is on disk under the AppVM's name tells of it. It may take a second.
	Current() error
}

// Trial is a process that is there for one question.
type Trial interface {
	// Ask sends the question from an address of this machine. It returns when that is decided, or ctx ends.
	Ask(ctx context.Context, from netip.Addr) (tinyproxy.Outcome, error)
	Kill() // returns when nothing of it is left
}

// Config is what a Supervisor works with.
type Config struct {
	ReadLinks     func() (netwatch.Snapshot, error)
	LookAtLinks   func(netwatch.Hint) (netwatch.Snapshot, error)
	ReadRules     func() (rules.Set, error)
	RulesChanged  func(of ...netip.Addr) bool // whether ReadRules may return something else for these AppVMs now
	ReadBinary    func() (tinyproxy.Binary, error)
	ReadResolvers func() ([]netip.Addr, error)
	ReadPlaces    func(files ...string) string // that sandboxes depend on, see confine.Places
	ReadListeners func() (sockdiag.Listeners, error)
	LookUp        func(ctx context.Context, host string) ([]netip.Addr, error)
	Attempts      func(uid uint32, port uint16) ([]firewall.Attempt, error)
	ReadStops     func() (stops.Record, error) // as WriteStops left them, in whatever life of the daemon
	WriteStops    func(stops.Record) error
	BootTime      func() time.Duration // since the machine began, what it was suspended included, whatever the clock is set to
	WakeAt        func(time.Duration)  // has Wake called at a BootTime, also when that is over at the end of a suspend
	Firewall      firewall.Backend
	Forget        func(to netip.AddrPort, from []netip.AddrPort) error // connections of an ended proxy, see firewall.Forget
	ForgetAll     func([]firewall.Binding) (int, error)                // those that lead nowhere, see firewall.Config
	Proxies       Proxies
	Users         *tinyproxy.Identities // as Proxies starts them
	Confined      control.Confinement   // how Proxies are confined
	Egress        []rules.Egress        // of all proxies
	Leave         []string              // interfaces by which they may leave; none: where AppVMs are forwarded
	ReadForward   func(context.Context) (firewall.Forward, error)
	Ports         PortRange
	Limits        Limits
	Interval      time.Duration      // of signs of life to systemd, at most
	Look          time.Duration      // of the look at everything that needs no event
	Rest          func()             // called when nothing has happened for a while, after something did
	Notify        func(state string) // sd_notify(3)
	Events        *events.Emitter
	Setup         control.Setup // what clients are told of the options

	// SystemdMakesFiles says that systemd makes the runtime directory at each start of the daemon, and starts it when it ends.
	SystemdMakesFiles bool
}

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

// resync has everything read at once.
func (s *Supervisor) resync(now time.Time) {
	s.burst = time.Time{}
	for _, what := range []task{dueLinks, dueRules, dueCheck} {
		s.agenda.at(what, now)
	}
	s.guard.suspect, s.guard.undone = true, false
	s.agenda.at(dueResync, now.Add(s.Look))
}

// schedule turns reasons into times, but for Rules: at once, or when it is the turn of a check.
func (s *Supervisor) schedule(reasons Reason, now time.Time) {
	if reasons.has(Links) {
		s.agenda.at(dueLinks, now)
	}
	if reasons.has(Resolvers) {
		s.agenda.at(dueResolvers, now)
	}
	if reasons.has(Firewall) {
		s.guard.suspect = true
		s.guard.again = s.checking()
		s.agenda.by(dueCheck, s.guard.next(now))
	}
}

// expectRules has the rules read when what changes them, from first to last as far as it is known, is over.
func (s *Supervisor) expectRules(first, last, now time.Time) {
	if s.burst.IsZero() {
		s.burst, s.edited = now, first
	}
	s.agenda.at(dueRules, earlier(last.Add(settle), s.burst.Add(settleMost)))
}

// stale reports whether the rules of AppVMs may be others than those that were read last. Then they are read soon.
// Whether a change was heard of is not enough to go by: netlink may have been faster than inotify.
func (s *Supervisor) stale(now time.Time, of ...netip.Addr) bool {
	if s.burst.IsZero() && s.RulesChanged(of...) {
		s.expectRules(now, now, now)
	}
	return !s.burst.IsZero()
}

// read reads the inputs that are due and tells whether there is anything to reconcile. What cannot be read stays
// as it was last known: "could not read" is never "there is nothing".
func (s *Supervisor) read(now time.Time) bool {
	s.heard = now
	if s.changed && !s.agenda.has(dueNews) {
		s.agenda.at(dueNews, now)
		if s.starting() >= massStart {
			s.agenda.at(dueNews, later(now, s.planned.Add(gather)))
		}
	}
	s.changed = false
	work := s.agenda.take(dueNews, now)
	if s.agenda.take(dueLinks, now) {
		links, err := s.ReadLinks()
		s.agenda.at(dueLinks, s.troubles.note(s.Events, now, "links", err))
		if err != nil || !links.Equal(s.inputs.Links) {
			work = true // most events of an attach change nothing yet
		}
		if err == nil {
			s.inputs.Links = links
		}
	}
	if s.agenda.take(dueRules, now) {
		set, err := s.ReadRules()
		over := s.burst.Add(settleMost) // long ago, if nothing settles
		s.agenda.at(dueRules, s.troubles.note(s.Events, now, "rules", err))
		switch {
		case err == nil && now.Before(over) && truncated(s.inputs.Rules, set):
			s.agenda.at(dueRules, over) // somebody is about to write
		case err == nil:
			s.cache.keep(s.inputs.Rules, set)
			s.inputs.Rules = set
			s.noteWriters(set, now)
			if set.Again > 0 {
				s.agenda.at(dueRules, time.Now().Add(set.Again)) // reading takes its time
			}
			fallthrough
		default:
			work = true
			if !s.burst.IsZero() {
				s.heard, s.burst = s.edited, time.Time{}
			}
		}
	}
	if s.expire(now) {
		work = true
	}
	if s.agenda.take(dueLate, now) && s.checking() {
		work = true
		s.giveUp(s.writing)
	}
	switch {
	case s.agenda.isDue(now, dueCheck) && s.canCheckBeside() && !work:
		s.agenda.at(dueCheck, time.Time{})
		s.checkBeside(now)
	case s.agenda.take(dueCheck, now):
		work = true
		s.guard.looks++
		if s.knowsForward() {
			s.check(now) // before anything else
			s.readForward(now)
		} else {
			s.readForward(now) // without it nothing starts
			s.check(now)
		}
		s.verify(now)
	}
	for _, what := range []task{dueRetired, duePlan, dueReady, dueResolvers} {
		work = s.agenda.take(what, now) || work
	}
	if !work {
		return false
	}
	s.readBinary(now)
	s.readPlaces(now)
	resolvers, err := s.ReadResolvers()
	if retry := s.troubles.note(s.Events, now, "resolvers", err); err == nil {
		s.inputs.Resolvers = resolvers
	} else {
		s.agenda.at(dueResolvers, retry)
	}
	return true
}

// readPlaces reads what sandboxes depend on. A change is believed when it has lasted for a moment: directories in /run are
// taken away and made again when their service restarts, and every change is a new process for each AppVM.
func (s *Supervisor) readPlaces(now time.Time) {
	places := s.ReadPlaces(s.pages()...)
	switch {
	case places == s.inputs.Places:
		s.moved.places = ""
	case s.inputs.Places == "" || places == s.moved.places && now.Sub(s.moved.since) >= settleMost:
		s.inputs.Places, s.moved.places = places, ""
	default:
		if places != s.moved.places {
			s.moved.places, s.moved.since = places, now
		}
		s.agenda.at(dueResolvers, s.moved.since.Add(settleMost))
	}
}

// pages returns the files that templates make tinyproxy read while it serves, each once.
func (s *Supervisor) pages() (files []string) {
	for _, d := range s.want {
		if d.Policy != nil {
			files = append(files, d.Policy.Config.Reads...)
		}
	}
	slices.Sort(files)
	return slices.Compact(files)
}

func (s *Supervisor) readBinary(now time.Time) {
	binary, err := s.ReadBinary()
	if s.troubles.note(s.Events, now, "tinyproxy", err); err == nil {
		s.inputs.Binary = binary
	}
}

// truncated tells whether a rule file has become empty, which is how writing in place begins.
func truncated(before, now rules.Set) bool {
	return slices.ContainsFunc(now.Files, func(f rules.File) bool {
		return f.Empty && slices.ContainsFunc(before.Files, func(old rules.File) bool {
			return old.Path == f.Path && !old.Empty
		})
	})
}

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

// report tells systemd, and those who wait for it, how things stand.
func (s *Supervisor) report(now time.Time, settled bool) {
	if line := s.summarize(now); line != s.summary {
		s.summary = line
		s.notify("STATUS=" + line)
	}
	if !s.ready && (settled || !s.agenda.has(dueReady)) {
		s.ready = true
		s.agenda.at(dueReady, time.Time{})
		s.notify("READY=1")
	}
	s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool {
		if w.last == 0 && s.waitsForFile(w, now) {
			return false
		}
		if w.last == 0 {
			w.last = s.lastID + 1 // what its request set going has been started by now
		}
		if s.onItsWay(w) {
			return false
		}
		s.answerSoon(func(status control.Status) {
			status.Cut = w.cut
			w.reply <- answer{status: status}
		})
		return true
	})
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
