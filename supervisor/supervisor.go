// Package supervisor makes the firewall VM be what links and rule files say it should be.
//
// One loop owns all state. Events only wake it: netlink, inotify, the end of a process, nftables, SIGHUP, verbs. It reads its inputs
// (inputs.go; if an event names a link, that link alone, early.go). Then it computes what should be there and the difference to what is
// there (internal/plan), and applies that difference (apply.go) in an order in which no binding ever leads to a port where its own
// proxy does not listen.
//
// The idea of hints instead of data is that of tailscale's net/netmon; of a bounded loop, that of kubernetes' proxies.
//
// Concurrency: the methods of a Supervisor may be called from any goroutine, also before Run, which is called once. Only the goroutine
// that calls Run has the loop. Every other goroutine that this package starts gets values, and reaches the loop by the mailbox: with a
// letter, a function that the loop calls with itself. The loop starts all of them, and Run waits for all of them but one:
//
//	it ...                                        function                    at most for
//	brings a process up, and later ends it        proxies.Runner              10 s, 2 s
//	writes or checks the firewall                 writer.run                  10 s
//	reads what else a check looks at              around                      2 s
//	forgets connections of an earlier run         forgetOrphans               as long as there are any
//	makes files describe the serving process      proxies.Proxy.Current       1 s
//	asks for the addresses of an Upstream         upstreams.Ask               10 s
//	tries a request that is explained             trials.List.Begin           2.5 s
//	looks into a connection that failed           explain.Explainer.Outcome   2 s
//	writes the record of stops                    writeStops                  as the file system pleases: Run does not wait
package supervisor

import (
	"context"

	"vifproxy/internal/explain"
	"vifproxy/internal/mailbox"
	"vifproxy/netwatch"
)

// A Supervisor is what any goroutine may use: it passes questions and changes on to the loop.
type Supervisor struct {
	config Config
	mail   *box
	looks  explain.Looks // at what became of connections
}

// New makes a supervisor; Run runs it.
func New(c Config) *Supervisor {
	s := &Supervisor{config: c, mail: mailbox.New[*loop]()}
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
	return newLoop(ctx, s.config, s.mail).run()
}
