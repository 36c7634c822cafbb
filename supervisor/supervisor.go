// Package supervisor makes the firewall VM be what links and rule files say it should be.
//
// One loop owns all state. Events (netlink, inotify, exits, nft, SIGHUP, verbs) only wake it; it reads its inputs
// (netlink's where the event points, see early.go), computes what is desired (desired.go) and the difference to what
// there is (plan.go), both pure, and applies that difference in an order in which no binding ever points at a port where
// its own proxy does not listen (apply.go).
//
// The idea of hints instead of data is that of tailscale's net/netmon; of a bounded loop, kubernetes' proxies.
//
// Concurrency: the methods of a Supervisor may be called from any goroutine, also before Run, which is called once. Only the
// goroutine that calls Run has the loop, which is a value in Run and nowhere else. Every other goroutine that this package starts
// gets copies of what it needs, and reaches the loop by the mailbox: with a letter, a function that the loop calls with itself.
// All are started by the loop, and Run waits for all of them but one:
//
//	what it does                          function              it may take
//	brings a process up                   runner.start          the time of a start, 10 s
//	ends a process                        runner.end            the time of an end
//	writes the firewall, checks           write.sync            10 s
//	forgets connections of earlier runs   forgetOrphans         as long as there are connections
//	has files tell of a process           showFiles             a second
//	asks for an Upstream's addresses      lookUp                10 s
//	tries a request that is explained     runTrial              2.5 s
//	looks into a connection that failed   Supervisor.examine    2 s
//	writes the record of stops            writeStops            forever: Run does not wait for it
package supervisor

import (
	"context"
	"net/netip"
	"sync"

	"vifproxy/internal/mailbox"
	"vifproxy/netwatch"
)

// A Supervisor is what any goroutine may use: it passes questions and changes on to the loop.
type Supervisor struct {
	Config
	mail *box

	examined struct { // connections that are being looked into
		sync.Mutex
		all int
		by  map[netip.Addr]int
	}
}

// New makes a supervisor; Run runs it.
func New(c Config) *Supervisor {
	s := &Supervisor{Config: c, mail: mailbox.New[*loop]()}
	s.examined.by = map[netip.Addr]int{}
	if c.Events != nil {
		c.Events.ExamineBy(s.examine)
	}
	return s
}

// Wake has the loop look again. It never blocks.
func (s *Supervisor) Wake(r mailbox.Reason) { s.mail.Wake(r) }

// Hint is Wake(mailbox.Links) where it is known where to look.
func (s *Supervisor) Hint(h netwatch.Hint) { s.mail.Hint(h) }

// Run reconciles until ctx ends, then takes everything away. Its error is of that taking away, or why only a new start helps.
func (s *Supervisor) Run(ctx context.Context) error {
	defer s.mail.Close()
	return newLoop(ctx, s.Config, s.mail).run()
}
