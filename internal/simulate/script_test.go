package simulate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A script is all that happens to the machine, in order. It says nothing about how long effects take: that follows from the seed and
// from how often the same effect has been asked for. So a script from which steps are deleted meets nearly the same machine.
type script []step

// A step is one change of the world, some time after the one before.
type step struct {
	after time.Duration
	what  deed
	vm    int           // of which AppVM, if it is about one
	n     int           // which of several
	lasts time.Duration // of faults
}

func (s step) String() string {
	return fmt.Sprintf("{%d, %s, %d, %d, %d}", s.after, s.what, s.vm, s.n, s.lasts)
}

func (s script) String() string {
	var b strings.Builder
	for _, step := range s {
		fmt.Fprintf(&b, "\t%s, // %v\n", step, step.after.Round(time.Microsecond))
	}
	return b.String()
}

// A deed is a kind of step.
type deed int

const (
	connect     deed = iota // an AppVM comes, or gets a second vif
	disconnect              // all its vifs go
	reconnect               // they go, and another one comes at once
	moveGateway             // all vifs have another address
	write                   // its list is written
	remove                  // its list is removed
	rename                  // its list is for another name
	dom0List                // dom0 decides a list, or takes it back
	shareList               // the list that others include is written
	ceil                    // the ceiling is written, or cannot be read
	template                // the template is changed
	stop                    // verbs
	start
	restart
	killAll
	killAllAndRestart
	update
	status
	allow
	takeBack
	learn // an AppVM learns, or a lesson is ended
	reload
	explainIt
	die       // a process dies
	lose      // a process loses its port
	fill      // clients hold all slots of a process, or let go of them
	clients   // other numbers of clients
	flush     // another program removes our tables
	unbind    // another program removes the bindings
	tear      // another program undoes every write for a time
	fault     // something does not work for a time
	suspend   // the machine sleeps
	crash     // the daemon is killed
	shutDown  // it is told to end
	resolvers // resolv.conf changes
	places    // what sandboxes depend on changes
	binary    // tinyproxy is replaced
	forward   // what may leave by the uplink changes
	owned     // the resolver says that a proxy is owned
	denied    // a proxy says that a connection has failed
	rest      // everything is mended, and checked
	deeds     // how many there are
)

var deedNames = [deeds]string{"connect", "disconnect", "reconnect", "moveGateway", "write", "remove", "rename", "dom0List",
	"shareList", "ceil", "template", "stop", "start", "restart", "killAll", "killAllAndRestart", "update", "status", "allow", "takeBack", "learn", "reload", "explainIt", "die", "lose",
	"fill", "clients", "flush", "unbind", "tear", "fault", "suspend", "crash", "shutDown", "resolvers", "places", "binary", "forward",
	"owned", "denied", "rest"}

func (d deed) String() string { return deedNames[d] }

// weights is how often each deed is done, in proportion.
var weights = [deeds]int{
	connect: 60, disconnect: 22, reconnect: 14, moveGateway: 3, write: 80, remove: 8, rename: 6, dom0List: 8, shareList: 8, ceil: 12, template: 8,
	stop: 10, start: 14, restart: 6, killAll: 2, killAllAndRestart: 3, update: 10, status: 10, allow: 12, takeBack: 5, learn: 6, reload: 3, explainIt: 15,
	die: 30, lose: 6, fill: 4, clients: 20, flush: 8, unbind: 5, tear: 2, fault: 50, suspend: 2, crash: 4, shutDown: 3, resolvers: 3, places: 4,
	binary: 1, forward: 3, owned: 2, denied: 3, rest: 6,
}

// A trouble is something that does not work.
type trouble int

const (
	links trouble = iota
	ruleFiles
	listeners
	chains
	nameServers
	readStops
	writeStops
	qubesDB
	firewallFails
	firewallMoody // some writes fail
	firewallUnfenced
	firewallShut
	firewallSlow
	startFails
	startTaken
	startRemoved
	startSlow
	publishing
	program
	deaf   // events are lost
	unseen // watchers end
	lookUps
	looking // at clients
	endSlow
	troubles
)

var troubleNames = [troubles]string{"links", "ruleFiles", "listeners", "chains", "nameServers", "readStops", "writeStops", "qubesDB",
	"firewallFails", "firewallMoody", "firewallUnfenced", "firewallShut", "firewallSlow", "startFails", "startTaken", "startRemoved", "startSlow", "publishing",
	"program", "deaf", "unseen", "lookUps", "looking", "endSlow"}

func (t trouble) String() string { return troubleNames[t] }

// A theme is what a script is about. Where everything may happen, a rare combination of a few things never does. So most scripts leave out
// most of it, at random (Groce, Zhang, Eide, Chen, Regehr: Swarm Testing, ISSTA 2012).
type theme struct {
	weights  [deeds]int
	troubles []trouble
	vms      []int // whom it is about
	gaps     [6]int
	wrong    bool // many lists are
	echoes   bool // a step is often followed by one that has to do with it
	setting
}

// A setting is a machine. In a found script it says what the script needs to fail; zero is usual.
type setting struct {
	seed    uint64
	ports   uint16 // how many there are for proxies
	slow    int    // how many times as long as usual everything takes
	ceiling bool   // no list may go beyond one
}

var (
	usualGaps = [6]int{5, 5, 4, 3, 2, 1}
	shortGaps = [6]int{8, 6, 4, 1, 0, 0}
	longGaps  = [6]int{2, 2, 2, 4, 6, 4}
)

// disturbing are deeds after which an AppVM may rightly not be served for a while.
var disturbing = []deed{die, lose, flush, unbind, tear, suspend, crash, shutDown, forward, dom0List, template, binary, places, ceil}

// matters says for what a trouble matters.
var matters = [troubles][]deed{
	links: {connect, disconnect, reconnect}, ruleFiles: {write}, listeners: {lose, die}, chains: {forward}, nameServers: {resolvers},
	readStops: {crash, shutDown}, writeStops: {stop, start, killAll}, qubesDB: {dom0List, connect},
	firewallFails: {flush, write, disconnect, die}, firewallMoody: {die, forward, die, write, connect}, firewallUnfenced: {flush, write}, firewallShut: {connect, write},
	firewallSlow: {flush, flush, flush, write, die, shutDown}, startFails: {write, connect, die, learn}, startTaken: {connect, write, restart},
	startRemoved: {connect}, startSlow: {connect, write, disconnect}, publishing: {write}, program: {binary}, deaf: {write, flush, disconnect},
	unseen: {write, disconnect}, lookUps: {template}, looking: {clients, write}, endSlow: {disconnect, write, killAll},
}

// follows says what often comes right after a deed, to the same AppVM: then both meet what either has begun.
var follows = [deeds][]deed{
	connect: {disconnect, die, flush}, disconnect: {connect, connect, write}, reconnect: {die, disconnect}, write: {write, write, disconnect, die, flush},
	dom0List: {write, dom0List}, remove: {write}, ceil: {ceil, write}, template: {template, write}, stop: {start}, start: {stop, write}, restart: {die, write},
	die: {die, flush, write}, lose: {write}, flush: {flush, die, update}, unbind: {die}, forward: {die, forward}, allow: {takeBack, write}, learn: {learn, write},
	suspend: {flush}, crash: {write},
}

// themeOf returns the theme of a seed. In every third one, everything may happen, in every sixth nothing but what people do, and in
// every twelfth the firewall is slow and moody.
func themeOf(seed uint64) theme {
	t := theme{weights: weights, gaps: usualGaps, setting: setting{seed: seed}}
	for i := range troubles {
		t.troubles = append(t.troubles, i)
	}
	r := rand.New(rand.NewPCG(seed, 2))
	t.vms = r.Perm(vmCount)
	t.ceiling, t.echoes = r.IntN(2) == 0, r.IntN(2) == 0
	if seed%3 == 0 {
		return t
	}
	for what := range deeds {
		switch n := r.IntN(10); {
		case what == connect || what == write || what == rest:
		case n < 5:
			t.weights[what] = 0
		case n >= 8:
			t.weights[what] *= 4
		}
	}
	if seed%12 == 5 {
		return t.aboutFirewall(r)
	}
	t.vms = t.vms[:1+r.IntN(vmCount)]
	r.Shuffle(len(t.troubles), func(i, j int) { t.troubles[i], t.troubles[j] = t.troubles[j], t.troubles[i] })
	t.troubles = t.troubles[:1+r.IntN(3)]
	t.gaps = [...][6]int{usualGaps, shortGaps, longGaps}[r.IntN(3)]
	t.slow = [...]int{1, 1, 5, 12}[r.IntN(4)]
	t.wrong = r.IntN(4) == 0
	if seed%6 == 1 {
		for _, what := range disturbing {
			t.weights[what] = 0
		}
		t.troubles, t.slow = []trouble{startTaken}, 1
		t.vms, t.ports = t.vms[:1], manyPorts // no other AppVM gets the few ports that are free
		return t
	}
	if n := len(t.vms); n < 3 && r.IntN(2) == 0 {
		t.ports = uint16(2 + n*(1+r.IntN(6)))
	}
	return t
}

// aboutFirewall returns a theme of few AppVMs and few ports, in which writes of the firewall take long, and some fail, while processes die
// and start.
func (t theme) aboutFirewall(r *rand.Rand) theme {
	for what := range deeds {
		if !slices.Contains([]deed{connect, disconnect, write, update, die, clients, flush, unbind, forward, fault, rest}, what) {
			t.weights[what] = 0
		}
	}
	t.weights[die], t.weights[flush], t.weights[forward], t.weights[rest] = 40, 15, 25, 3
	t.echoes, t.vms = true, t.vms[:2+r.IntN(2)]
	t.troubles = []trouble{firewallSlow, firewallMoody, []trouble{firewallFails, startSlow, endSlow, firewallSlow}[r.IntN(4)]}
	t.ports = uint16(2*len(t.vms) + r.IntN(4))
	t.gaps = [...][6]int{usualGaps, shortGaps}[r.IntN(2)]
	t.slow = [...]int{1, 5, 12}[r.IntN(3)]
	return t
}

// scriptOf returns the script of a seed.
func scriptOf(seed uint64, steps int) (s script) {
	t := themeOf(seed)
	r := rand.New(rand.NewPCG(seed, 1))
	next := func(what deed, gaps [6]int) step {
		n := r.IntN(1 << 20)
		switch {
		case what == explainIt && !explains(seed):
			what = status
		case what == fault:
			n = int(t.troubles[n%len(t.troubles)])
		case what == write && t.wrong && r.IntN(2) == 0:
			n = n&^0xf00 | r.IntN(5)<<8
		}
		lasts := gap(r, t.gaps) + time.Duration(r.Int64N(int64(3*time.Second)))
		if what == fault && trouble(n) == unseen && r.IntN(2) == 0 {
			lasts += 10 * time.Second // so that somebody looks meanwhile
		}
		return step{gap(r, gaps), what, t.vms[r.IntN(len(t.vms))], n, lasts}
	}
	for len(s) < steps {
		one := next(deed(pick(r, t.weights[:])), t.gaps)
		s = append(s, one)
		if then := follows[one.what]; then != nil && t.echoes && r.IntN(3) == 0 {
			if what := then[r.IntN(len(then))]; t.weights[what] > 0 {
				again := next(what, shortGaps)
				again.vm = one.vm
				s = append(s, again)
			}
		}
		if about := matters[one.n%int(troubles)]; one.what == fault && r.IntN(2) == 0 {
			s = append(s, next(about[r.IntN(len(about))], shortGaps), next(clients, longGaps)) // what it is about, and a while to see what comes of it
		}
	}
	return s[:steps]
}

// pick returns an index, in proportion to the weights.
func pick(r *rand.Rand, weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := r.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	panic("no weight")
}

// explains reports whether requests are explained in the script of a seed. Whoever explains one asks the loop every 10 ms whether it is
// the turn of a trial, and timers of the loop fire at the same instants; which of the two comes first does not follow from the seed.
func explains(seed uint64) bool { return seed%4 == 3 }

// gap returns a time between two steps: most are in the midst of what the one before has begun.
func gap(r *rand.Rand, gaps [6]int) time.Duration {
	most := [...]time.Duration{time.Millisecond, 5 * time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 20 * time.Second}
	return 1 + time.Duration(r.Int64N(int64(most[pick(r, gaps[:])])))
}
