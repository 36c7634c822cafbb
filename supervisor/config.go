package supervisor

import (
	"context"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
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
	Limits        plan.Limits
	Interval      time.Duration      // of signs of life to systemd, at most
	Look          time.Duration      // of the look at everything that needs no event
	Rest          func()             // called when nothing has happened for a while, after something did
	Notify        func(state string) // sd_notify(3)
	Events        *events.Emitter
	Setup         control.Setup // what clients are told of the options

	// SystemdMakesFiles says that systemd makes the runtime directory at each start of the daemon, and starts it when it ends.
	SystemdMakesFiles bool
}

// notify tells systemd.
func (c *Config) notify(state string) {
	if c.Notify != nil {
		c.Notify(state)
	}
}
