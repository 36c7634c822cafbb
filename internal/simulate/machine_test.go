package simulate_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/plan"
	"vifproxy/internal/proxies"
	"vifproxy/internal/simulate/model"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/stops"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/supervisor"
	"vifproxy/tinyproxy"
)

const (
	firstPort  = 9000
	usualPorts = 18 // few, so that ports are used again, and run out
	manyPorts  = 60 // so many that the few of them which another program leaves free do not run out
	look       = 30 * time.Second
	roundsMax  = 10_000 // at one instant
)

// A machine is a firewall VM of values: what the supervisor reads, and what comes of what it does. Its driver alone changes it, at
// instants that nothing else shares.
type machine struct {
	setting
	began time.Time

	// mu guards all that follows. At any instant the driver waits until all other goroutines wait, so it meets nobody there.
	mu     sync.Mutex
	queue  queue
	fresh  []*effect     // begun at this instant
	came   []*answer     // verbs that have returned at this instant
	signal chan struct{} // has a token if one of these is not empty
	asked  map[what]int  // how often an effect was asked for
	serial int

	life     *life   // the daemon that runs; nil if none does
	lives    []*life // all
	vms      []*appVM
	expected *model.Model      // what has to be
	tells    func(model.Event) // the model's journal; nil if nobody wants it
	told     struct {
		ceiling model.List
		none    bool
	}
	tmpl      int // which template
	tmpls     window[int]
	uplink    int // what chains of hook forward say
	servers   int
	place     int
	tool      tinyproxy.Binary
	shared    list          // which other lists may include
	ceiling   window[hosts] // what no list may go beyond
	noCeiling bool          // it cannot be read
	before    map[*list]hosts
	version   int // of all that Inputs.Rules reads
	slept     time.Duration

	faults   [troubles]time.Time     // until when something does not work
	lasted   [troubles]time.Duration // how long it has not worked since everything did
	finished bool
	forever  bool         // nothing fails any more, and nothing takes long
	tearing  time.Time    // until when another program undoes what is written
	kept     stops.Record // the file

	kernel       *firewall.State    // what the kernel holds
	doors        []firewall.Binding // where bindings of before led: AppVMs may reach that until a write is complete
	fenced       bool               // the fence stands
	fwFailed     bool               // the last write failed, or took too long
	failed       time.Time          // when a write last did
	unfenced     time.Time          // since when not
	amidst       bool               // a write was under way then
	saidUnfenced time.Time          // when the daemon last ended all because of that
	pending      *firewall.State    // what a write under way is about
	wanted       *firewall.State    // what the last write was about
	cutOff       []cut              // the bindings that a write under way takes away, although nothing that the daemon knows asks for it
	blind        [3]time.Duration   // how long the daemon could have read a change of which no watcher has told it
	procs        map[uint16]*proc
	starting     map[uint16]bool       // ports at which processes do not listen yet
	served       map[uint16]netip.Addr // who had a port last
	died         map[uint16]time.Time  // when the process at a port ended
	knownDead    map[uint16]bool       // and the daemon knows it
	quiet        bool                  // nothing has failed since everything was at rest, but that ports were taken
	shown        map[netip.Addr]uint16 // the port of the proxy that files tell of
	current      map[netip.Addr]uint16 // that of the proxy that they should tell of

	stale   [3]bool       // links, rules, firewall: the daemon has not heard of a change
	calm    time.Duration // how long nothing has kept the daemon from doing what the inputs say
	verbs   map[*answer]bool
	round   time.Time
	rounds  int // of the loop at that instant
	steps   int
	reached map[string]int
	wrong   error // the first violation

	journal []string
	writing bool     // the journal is kept
	instant []string // lines of this instant
}

// A life is one run of the daemon.
type life struct {
	n         int
	sup       *supervisor.Supervisor
	events    *events.Emitter
	ctx       context.Context
	cancel    context.CancelFunc
	dead      bool // it was killed: nothing that it does has an effect
	told      time.Time
	over      bool
	err       error
	version   int       // of the rules that it has read
	truncated bool      // one of these lists is empty, so somebody may be about to write it
	wrote     bool      // it has written the firewall
	unfenced  time.Time // since when it knows that the fence does not stand; zero if it does, as far as it knows
	watchers  [3]chan error
	mayEnd    bool          // by itself
	alarm     time.Duration // when it is to be woken, in boot time
}

// A proc is a process that listens, or did.
type proc struct {
	m          *machine
	life       *life
	vm         *appVM
	began      time.Time
	connection int // of its AppVM, when it was started
	tmpl       int // of its rules
	hosts      hosts
	learns     bool          // it is of a lesson
	bound      time.Time     // since when it has been
	idle       time.Duration // how long nobody has used it in calm time, and another one has served
	bind       netip.Addr
	port       uint16
	pid        int
	done       chan struct{}
	told       []func()
	err        error
	clients    int
	full       bool
	lost       bool
	unheard    bool      // and nobody has told the daemon
	ordered    bool      // the daemon ends it
	mustDie    time.Time // when the daemon had to kill it: a write failed, so new connections still come to it, and its rules permit too much
}

// what names effects of one kind.
type what struct {
	kind string
	vm   netip.Addr
}

// An effect is something that the daemon has begun, and that ends when the driver says so.
type effect struct {
	what
	port        uint16
	life        *life
	least, most time.Duration
	apply       func(*effect) // what it does to the machine, if it comes to its end
	err         error
	done        chan struct{}
	began       time.Time
	over        bool
}

// An answer is that of a verb.
type answer struct {
	name    string
	n       int
	life    *life
	took    func()
	decides []*appVM // whether these are stopped
}

// await begins an effect, and returns what came of it.
func (m *machine) await(ctx context.Context, l *life, w what, port uint16, least, most time.Duration, apply func(*effect)) error {
	m.mu.Lock()
	if l.dead {
		m.mu.Unlock()
		return errDead
	}
	e := &effect{what: w, port: port, life: l, least: least, most: most, apply: apply, done: make(chan struct{}), began: time.Now()}
	m.fresh = append(m.fresh, e)
	m.poke()
	m.mu.Unlock()
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		e.over = true
		return ctx.Err()
	}
}

var (
	errDead = errors.New("the daemon was killed")
	errNot  = errors.New("it does not work now")
)

func (m *machine) poke() {
	select {
	case m.signal <- struct{}{}:
	default:
	}
}

// fails reports whether something does not work now.
func (m *machine) fails(t trouble) bool { return !m.forever && time.Now().Before(m.faults[t]) }

func (m *machine) failing(t trouble) error {
	if m.fails(t) {
		return fmt.Errorf("%v: %w", t, errNot)
	}
	return nil
}

// chance returns a number below n for the next effect of a kind. It depends on the seed, and on nothing that happens to other effects.
func (m *machine) chance(w what, n int64) int64 {
	m.asked[w]++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %s %d", m.seed, w.kind, w.vm, m.asked[w])
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return int64(x % uint64(n))
}

// did adds a line to the journal.
func (m *machine) did(format string, args ...any) {
	if m.writing {
		m.instant = append(m.instant, fmt.Sprintf(format, args...))
	}
}

// sometimes notes that a rare state was reached.
func (m *machine) sometimes(state string) { m.reached[state]++ }

// violated notes that something has happened that must never happen.
func (m *machine) violated(format string, args ...any) {
	if m.wrong == nil {
		m.wrong = fmt.Errorf(format, args...)
		m.did("VIOLATION: %v", m.wrong)
	}
}

// newLife starts the daemon, as cmd/vifproxyd does: nothing is left of an earlier run, and the fence stands.
func (m *machine) newLife() {
	if m.finished {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{n: len(m.lives), ctx: ctx, cancel: cancel, version: -1}
	m.lives = append(m.lives, l)
	m.life = l
	for _, vm := range m.vms {
		vm.steady = false
		vm.forgetTemporary()
	}
	m.tell()
	m.expected.Ends()
	m.expected.Starts(m.ceiling.now != noCeiling)
	m.doors = nil
	m.kernel, m.fenced, m.stale, m.tearing = &firewall.State{}, true, [3]bool{}, time.Time{}
	clear(m.died)
	clear(m.knownDead)
	clear(m.starting)
	for _, vm := range m.vms {
		_, by := m.kept.Of(vm.name, vm.addr)
		switch {
		case vm.stopped == yes && by != "":
			m.sometimes("a stop outlives the daemon")
		case vm.stopped != no || by != "" || m.fails(readStops):
			vm.stopped = maybe
		}
	}
	l.sup = supervisor.New(m.config(l))
	for i, what := range watched {
		l.watchers[i] = make(chan error, 1)
		go l.sup.KeepWatching(ctx, what.name, what.reason, func(ctx context.Context, report func(error)) error { return m.watch(ctx, l, i, report) })
	}
	m.did("start daemon %d", l.n)
	go func() {
		err := l.sup.Run(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		l.over, l.err = true, err
		m.poke()
	}()
}

var watched = [3]struct {
	name   string
	reason mailbox.Reason
}{{"links", mailbox.Links}, {"rules", mailbox.Rules}, {"firewall", mailbox.Firewall}}

// watch is a watcher: it works until the driver says otherwise.
func (m *machine) watch(ctx context.Context, l *life, i int, report func(error)) error {
	err := m.await(ctx, l, what{kind: "watch " + watched[i].name}, 0, time.Microsecond, time.Millisecond, func(e *effect) { e.err = m.failing(unseen) })
	if err != nil {
		return err
	}
	report(nil)
	l.sup.Wake(watched[i].reason)
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.watchers[i]:
		return err
	}
}

// quick are effects that take no time worth mentioning: the loop itself waits for them.
func (m *machine) read(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// config returns what the supervisor of a life works with.
func (m *machine) config(l *life) supervisor.Config {
	users := new(tinyproxy.Identities)
	l.events = events.New(slog.New(logger{m, l}))
	return supervisor.Config{
		Read: supervisor.Inputs{
			Links: func() (s netwatch.Snapshot, err error) {
				m.read(func() {
					if err = m.failing(links); err == nil {
						s = m.snapshot()
					}
					if err == nil && l == m.life {
						m.stale[0] = false
						for _, vm := range m.vms {
							vm.known = vm.connection
						}
					} else if l == m.life {
						m.stale[0] = true
					}
				})
				return s, err
			},
			LinksAt: func(h netwatch.Hint) (found netwatch.Snapshot, err error) {
				m.read(func() {
					if err = m.failing(links); err != nil {
						return
					}
					for _, vm := range m.snapshot() {
						if vm.Addr == h.Host || slices.Contains(vm.Links, h.Link) {
							found = append(found, vm)
							m.of(vm.Addr).known = m.of(vm.Addr).connection
						}
					}
				})
				return found, err
			},
			Rules: func() (s rules.Set, err error) {
				m.read(func() {
					if err = m.failing(ruleFiles); err == nil {
						s = m.rules()
						l.version = m.version
						l.truncated = m.ceiling.now == 0 || slices.ContainsFunc(m.vms, func(vm *appVM) bool {
							l := vm.written()
							return l.kind == good && (l.lines == 0 || l.lines&includeLine != 0 && m.shared == list{kind: good})
						})
						for _, vm := range m.vms {
							if !l.truncated && !vm.keeping && vm.list() == vm.judged {
								vm.readBy = l
							}
						}
					}
					if l == m.life {
						m.stale[1] = err != nil || s.Unknown != nil
					}
				})
				return s, err
			},
			RulesChanged: func(...netip.Addr) (yes bool) {
				m.read(func() { yes = l.version != m.version })
				return yes
			},
			Binary: func() (b tinyproxy.Binary, err error) {
				m.read(func() {
					if err = m.failing(program); err == nil {
						b = m.tool
					}
				})
				return b, err
			},
			Resolvers: func() (all []netip.Addr, err error) {
				m.read(func() {
					if err = m.failing(nameServers); err == nil {
						all = []netip.Addr{netip.AddrFrom4([4]byte{10, 139, 1, byte(m.servers)})}
					}
				})
				return all, err
			},
			Places: func(...string) (places map[string]string) {
				m.read(func() { places = map[string]string{"": fmt.Sprint("places ", m.place)} })
				return places
			},
			Stops: func() (r stops.Record, err error) {
				m.read(func() {
					if err = m.failing(readStops); err == nil {
						r = m.kept.Clone()
					}
				})
				return r, err
			},
			Listeners: func() (s sockdiag.Listeners, err error) {
				m.read(func() { s, err = sockdiag.Listeners{}, m.failing(listeners) })
				return s, err
			},
			Forward: func(context.Context) (f firewall.Forward, err error) {
				m.read(func() {
					if err = m.failing(chains); err != nil {
						return
					}
					switch m.uplink % 3 {
					case 1:
						f.Barred = []firewall.Bar{{Interface: "eth0", Rule: "drop"}}
					case 2:
						f.Others, f.Open = "drop", []string{"tun0"}
					}
				})
				return f, err
			},
		},
		Names: supervisor.Names{
			LookUp: func(ctx context.Context, host string) (addrs []netip.Addr, err error) {
				err = m.await(ctx, l, what{kind: "look up " + host}, 0, time.Millisecond, m.slow(lookUps, 60*time.Millisecond, 12*time.Second), func(e *effect) {
					if e.err = m.failing(lookUps); e.err == nil && host != upstream {
						e.err = errors.New("no such host")
					}
					addrs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(m.chance(what{kind: "address"}, 4))})}
				})
				return addrs, err
			},
			WhyNone: func(uint32, string) string { return "" },
			Asker: func(uid uint32) netip.AddrPort {
				return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 64, byte(uid >> 8), byte(uid)}), 53)
			},
			InForce: func() {},
		},
		Connections: supervisor.Connections{
			Attempts:  func(uint32, uint16) ([]firewall.Attempt, error) { return nil, nil },
			Forget:    func(netip.AddrPort, []netip.AddrPort) error { return nil },
			ForgetAll: func([]firewall.Binding) (int, error) { return 0, nil },
		},
		Clock: supervisor.Clock{
			WakeAt: func(at time.Duration) {
				m.read(func() {
					if l.alarm == at || l != m.life {
						return
					}
					l.alarm = at
					m.at(at-time.Since(m.began)-m.slept, "alarm", func() {
						if l.alarm == at && !l.dead {
							l.sup.Wake(mailbox.Mail)
						}
					})
					m.poke()
				})
			},
			Now: func() (d time.Duration) {
				m.read(func() {
					if now := time.Now(); now.Equal(m.round) {
						m.rounds++
					} else {
						m.round, m.rounds = now, 0
					}
					if m.rounds > roundsMax {
						panic(fmt.Sprintf("seed %d: the loop does not come to rest", m.seed))
					}
					d = time.Since(m.began) + m.slept
				})
				return d
			},
		},
		Systemd: supervisor.Systemd{
			Notify: func(state string) {
				if state == "WATCHDOG=1" { // a round of the loop begins: it reads what was posted until now
					m.read(func() {
						for port, at := range m.died {
							if l == m.life && at.Before(time.Now()) {
								m.knownDead[port] = true
							}
						}
					})
				}
			},
			MakesFiles: true,
		},
		WriteStops: func(r stops.Record) error {
			return m.await(context.Background(), l, what{kind: "write stops"}, 0, 100*time.Microsecond, m.slow(writeStops, 5*time.Millisecond, 7*time.Second), func(e *effect) {
				if e.err = m.failing(writeStops); e.err == nil {
					m.kept = r
				}
			})
		},
		Rest:      func() { m.read(func() { m.sometimes("nothing happens for long") }) },
		Firewall:  &kernel{m: m, life: l},
		Proxies:   starter{m, l},
		Events:    l.events,
		Users:     users,
		Ports:     proxies.PortRange{First: firstPort, Last: firstPort + m.ports - 1},
		Limits:    plan.Limits{Drain: 20 * time.Second, Generations: 2, Full: 1},
		Heartbeat: 30 * time.Second,
		Resync:    look,
		Setup:     control.Setup{Started: time.Now()},
		HoldOwned: holdsOwned(m.seed),
	}
}

// slow returns how long an effect may take.
func (m *machine) slow(t trouble, usually, most time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails(t) {
		return most
	}
	return min(usually*time.Duration(m.setting.slow), most)
}

// A logger writes events into the journal.
type logger struct {
	m *machine
	l *life
}

func (g logger) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (g logger) WithAttrs([]slog.Attr) slog.Handler               { return g }
func (g logger) WithGroup(string) slog.Handler                    { return g }
func (g logger) Handle(_ context.Context, r slog.Record) error {
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	if g.l.dead {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "err" && strings.HasPrefix(a.Value.String(), "all ports from") {
			g.m.quiet = false
			g.m.sometimes("no port is left")
			for _, vm := range g.m.vms {
				g.m.forgetUp(vm) // rules that do not start, for whatever reason, have taken back what they do not permit
			}
		}
		return true
	})
	if strings.HasPrefix(r.Message, "the fence around proxies does not stand") {
		g.m.saidUnfenced = time.Now()
	}
	if g.m.sometimes(r.Message); !g.m.writing {
		return nil
	}
	line := "log: " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "message_id" && a.Key != "event" {
			line += " " + a.String()
		}
		return true
	})
	g.m.did("%s", line)
	return nil
}

// snapshot returns who is connected.
func (m *machine) snapshot() (s netwatch.Snapshot) {
	for _, vm := range m.vms {
		if len(vm.vifs) == 0 {
			continue
		}
		c := netwatch.AppVM{Addr: vm.addr, Gateway: vm.gateway}
		for _, v := range vm.vifs {
			c.Vifs, c.Links = append(c.Vifs, vifOf(v)), append(c.Links, linkOf(v))
		}
		s = append(s, c)
	}
	slices.SortFunc(s, func(a, b netwatch.AppVM) int { return a.Addr.Compare(b.Addr) })
	return s
}

// vifOf returns the name of a vif.
func vifOf(domid int) string { return fmt.Sprintf("vif%d.0", domid) }

// linkOf returns the index of a vif.
func linkOf(domid int) int32 { return int32(domid + 10) }

// order puts effects of one instant into an order that does not depend on goroutines.
func (e *effect) order(o *effect) int {
	return cmp.Or(cmp.Compare(e.kind, o.kind), e.vm.Compare(o.vm), cmp.Compare(e.port, o.port), cmp.Compare(e.life.n, o.life.n))
}
