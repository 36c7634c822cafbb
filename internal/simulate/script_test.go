package simulate_test

import (
	"fmt"
	"math/rand/v2"
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

var deedNames = [deeds]string{"connect", "disconnect", "reconnect", "moveGateway", "write", "remove", "rename", "dom0List", "template",
	"stop", "start", "restart", "killAll", "killAllAndRestart", "update", "status", "allow", "takeBack", "reload", "explainIt", "die", "lose",
	"fill", "clients", "flush", "unbind", "tear", "fault", "suspend", "crash", "shutDown", "resolvers", "places", "binary", "forward",
	"owned", "denied", "rest"}

func (d deed) String() string { return deedNames[d] }

// weights is how often each deed is done, in proportion.
var weights = [deeds]int{
	connect: 60, disconnect: 22, reconnect: 14, moveGateway: 3, write: 80, remove: 8, rename: 6, dom0List: 8, template: 8,
	stop: 10, start: 14, restart: 6, killAll: 2, killAllAndRestart: 3, update: 10, status: 10, allow: 12, takeBack: 5, reload: 3, explainIt: 5,
	die: 24, lose: 6, fill: 4, clients: 20, flush: 8, unbind: 5, tear: 2, fault: 50, suspend: 2, crash: 4, shutDown: 3, resolvers: 3, places: 4,
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
	"firewallFails", "firewallUnfenced", "firewallShut", "firewallSlow", "startFails", "startTaken", "startRemoved", "startSlow", "publishing",
	"program", "deaf", "unseen", "lookUps", "looking", "endSlow"}

func (t trouble) String() string { return troubleNames[t] }

// scriptOf returns the script of a seed.
func scriptOf(seed uint64, steps int) (s script) {
	r := rand.New(rand.NewPCG(seed, 1))
	sum := 0
	for _, w := range weights {
		sum += w
	}
	for range steps {
		n := r.IntN(sum)
		var what deed
		for what = range deeds {
			if n -= weights[what]; n < 0 {
				break
			}
		}
		if what == explainIt && !explains(seed) {
			what = status
		}
		s = append(s, step{gap(r), what, r.IntN(vmCount), r.IntN(1 << 16), gap(r) + time.Duration(r.Int64N(int64(3*time.Second)))})
	}
	return s
}

// explains reports whether requests are explained in the script of a seed. Whoever explains one asks the loop every 10 ms whether it is
// the turn of a trial, and timers of the loop fire at the same instants; which of the two comes first does not follow from the seed.
func explains(seed uint64) bool { return seed%4 == 3 }

// gap returns a time between two steps: most are in the midst of what the one before has begun.
func gap(r *rand.Rand) time.Duration {
	most := [...]time.Duration{time.Millisecond, 5 * time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second, 20 * time.Second}
	n := r.IntN(20)
	switch {
	case n < 5:
		n = 0
	case n < 10:
		n = 1
	case n < 14:
		n = 2
	case n < 17:
		n = 3
	case n < 19:
		n = 4
	default:
		n = 5
	}
	return 1 + time.Duration(r.Int64N(int64(most[n])))
}
