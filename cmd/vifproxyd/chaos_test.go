package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vifproxy/control"
	"vifproxy/internal/lab"
	"vifproxy/internal/simulate/model"
	"vifproxy/qubes/qubestest"
)

var (
	chaosTime    = flag.Duration("chaos.time", time.Minute, "how long the chaos run lasts")
	chaosJournal = flag.String("chaos.journal", "", "the directory for the journals of the chaos run; without it, those of runs that fail are kept in the one for temporary files")
	chaosSeed    = flag.Uint64("chaos.seed", 0, "what the chaos run is made of; 0: another one each time")
)

// TestChaos does to vifproxyd, in random order, all that may happen to it, while clients in every AppVM try
// what they may and may not reach. What must hold is asserted throughout, and now and then all faults are
// mended and the whole state compared with the one that the model computes from the inputs. The sequence of
// actions follows from the seed; how far it gets in the time, and what the kernel interleaves with it, does
// not.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64N(1e6)
	}
	onBothRaced(t, func(s *site) {
		c := newChaos(s, seed)
		c.run(time.Now().Add(*chaosTime))
	})
}

// chaos is one run.
type chaos struct {
	*site
	seed    uint64
	rng     *rand.Rand
	court   court
	journal *os.File // of what happens and what is seen, for the model
	sampler *sampler
	ctl     *control.Client
	db      *qubestest.Daemon
	gate    sync.RWMutex // held for writing: no client is at it
	done    chan struct{}
	running sync.WaitGroup
	verbs   sync.WaitGroup // requests to the daemon that nobody waits for

	// What the actions have done to the machine.
	names  map[*appVM]string   // in the lab
	plugs  map[*appVM][]lab.VM // half attached ones too
	full   bool                // the runtime directory
	late   bool                // the daemon may need a while to notice what happened since the last settled moment
	thin   bool                // a part of our rules may be away
	naming naming
	dom0   decisions

	explained bool              // a request, by vifproxyctl, since origins were counted last
	ended     map[*running]bool // daemons that were meant to end
	counts    map[string]int
	log       []string

	mu       sync.Mutex
	cables   map[*appVM]cable
	gateways map[*appVM]netip.Addr
	ports    []binding
	samples  int
	pings    int
	learnt   int // lessons that have begun; guarded by court
	failures int
	before   string // what the last daemon but one said last
	fence    fenceGaps

	flags    []string // of the daemon
	asBefore bool     // so the next daemon has the same

	reader logReader
	sought int // requests for hosts that lead elsewhere
}

// stranger is an AppVM that never has rules.
const stranger = "stranger"

func newChaos(s *site, seed uint64) *chaos {
	c := &chaos{
		site: s, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)),
		sampler: newSampler(s), ctl: control.NewClient(s.socket()), done: make(chan struct{}),
		names: map[*appVM]string{}, plugs: map[*appVM][]lab.VM{},
		ended: map[*running]bool{}, counts: map[string]int{},
		cables: map[*appVM]cable{}, gateways: map[*appVM]netip.Addr{},
	}
	if s.user != 0 {
		s.user = ofChaos
		s.must(os.Chown(s.dir, s.user, 0))
	}
	c.journal = newJournal(s)
	c.court.Model = model.New(everything, model.Write(c.journal), netip.MustParseAddr("10.137.0.11"), netip.MustParseAddr("10.137.0.12"),
		netip.MustParseAddr("10.137.7.11"), netip.MustParseAddr("10.137.0.13"), netip.MustParseAddr("10.137.0.14"))
	c.court.open = map[*trial]bool{}
	for i, vm := range c.court.VMs {
		c.names[vm] = fmt.Sprintf("vm%d", i+1)
		if i == len(c.court.VMs)-1 {
			c.names[vm] = stranger
		}
		c.cables[vm], c.gateways[vm] = newCable(), lab.Gateway
	}
	c.db = qubestest.Start(s.T, filepath.Join(s.dir, "qubesdb.ro.sock"))
	s.inMemory("8m")
	for host := range universe {
		c.Host(universe[host], origin(host))
	}
	return c
}

// run does it all.
func (c *chaos) run(deadline time.Time) {
	defer func() {
		if c.Failed() {
			c.Logf("seed %d; the journal is %s, see docs/testing.md; the last actions:\n%s\nthe daemon before the last one said last:\n%s",
				c.seed, c.journal.Name(), strings.Join(c.log[max(0, len(c.log)-60):], "\n"), c.before)
		}
	}()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			close(c.done)
			c.running.Wait()
		}
	}
	defer stop()
	c.begin()
	c.running.Go(c.watch)
	for i, vm := range c.court.VMs {
		c.running.Go(func() { c.client(vm, c.seed+uint64(i)) })
		c.running.Go(func() { c.seek(vm, c.seed+uint64(i)) })
	}
	for n := 1; time.Now().Before(deadline) && !c.broken(); n++ {
		c.act(n)
		if n%16 == 0 {
			c.perform(n, action{0, "flip tunnels", (*chaos).flipTunnels})
			c.settle(c.rng.IntN(4) == 0)
			c.perform(n, action{0, "accept at rest", (*chaos).acceptAtRest})
		}
	}
	c.settle(true)
	if c.broken() {
		return
	}
	stop()
	c.finish()
	c.replay()
	c.report()
}

// begin sets the stage: everybody is connected, and has a list.
func (c *chaos) begin() {
	for _, vm := range c.court.VMs {
		c.plug(vm, lab.Complete)
		if c.names[vm] != stranger {
			c.write(vm, c.names[vm], c.someRules(listable))
		}
	}
	c.setFeature(c.court.VMs[1], c.names[c.court.VMs[1]], c.someFeature())
	c.onlySettings(c.court.VMs[2])
	c.setTemplate(c.someTemplate())
	c.editCeiling()
	c.editShared()
	c.setTraps()
	c.court.change(func(m *model.Model) { m.Ends() })
	c.up(true)
	c.settle(true)
}

func (c *chaos) perform(n int, a action) {
	what := strings.TrimSpace(a.do(c))
	c.counts[a.name]++
	when := time.Now().Format("15:04:05.000")
	c.court.change(func(m *model.Model) { m.Note(strings.TrimSpace(a.name + " " + what)) })
	c.log = append(c.log, fmt.Sprintf("%s %4d %s %s", when, n, a.name, what))
}

// act does one action of the sequence.
func (c *chaos) act(n int) {
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	pick := c.rng.IntN(total)
	for _, a := range actions {
		if pick -= a.weight; pick < 0 {
			c.perform(n, a)
			break
		}
	}
	// A pause, so that some actions meet a daemon at rest and others one at work.
	pause := time.Duration([]int{0, 0, 1, 5, 20, 50, 200, 400}[c.rng.IntN(8)]) * time.Millisecond
	select {
	case <-time.After(pause):
	case <-c.Context().Done():
	}
}

// fail notes what is wrong. The run goes on to its next step, and ends there.
func (c *chaos) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failures++; c.failures <= 5 {
		c.Errorf("%s "+format, append([]any{time.Now().Format("15:04:05.000")}, args...)...)
	}
}

func (c *chaos) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures > 0
}

func (c *chaos) gateway(vm *appVM) netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gateways[vm]
}

// finish mends the rules too, and checks that a new daemon makes of the same inputs what the old one has
// made of them in its long life; and that nothing is left after it.
func (c *chaos) finish() {
	c.mend()
	if c.naming.alone { // a daemon remembers a name server for a while that the next one does not know
		c.editResolvers()
	}
	c.settle(true)
	if c.broken() {
		return
	}
	c.until("older processes have ended", func() error {
		status, err := c.ctl.Update(c.Context()) // that a port is guarded no longer comes with a write for another reason
		if err != nil {
			return err
		}
		return c.compareFiles(status, true)
	})
	if _, err := c.ctl.Update(c.Context()); err != nil { // the last of them may have ended after the write that it was to come with
		c.fail("update: %v", err)
	}
	old := c.state()
	c.end(syscall.SIGTERM)
	c.asBefore = true
	c.up(true)
	c.settle(true)
	if c.broken() {
		return
	}
	if now := c.state(); now != old {
		c.fail("the same inputs, another state:\n%s\nbefore:\n%s", now, old)
	}
	c.end(syscall.SIGTERM)
	entries, err := os.ReadDir(c.runDir())
	c.must(err)
	if len(entries) > 0 {
		c.fail("left in the runtime directory: %v", entries)
	}
	if _, err := os.Stat(c.socket()); !errors.Is(err, os.ErrNotExist) {
		c.fail("control socket: %v", err)
	}
}

// report says how much was done.
func (c *chaos) report() {
	if n := c.counts["accept at rest"]; c.counts["accepted at rest"] != n || c.counts["settled"] < n {
		c.fail("of %d accepts at rest %d were written", n, c.counts["accepted at rest"])
	}
	reached := 0
	for _, n := range c.court.reached {
		reached += n
	}
	c.Logf("seed %d: %d actions, %d daemons, %d pages reached, %d refused, %d tries without an answer, "+
		"%d round trips in tunnels, %d lessons, %d looks at the bindings, %d questions where names led elsewhere; %v; %v", c.seed, len(c.log), len(c.ended), reached,
		c.court.refused, c.court.failed, c.pings, c.learnt, c.samples, c.sought, &c.fence, c.counts)
}
