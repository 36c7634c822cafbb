package supervisor

import (
	"context"
	"net/netip"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/internal/events"
	"vifproxy/internal/plan"
	"vifproxy/internal/proxies"
	"vifproxy/internal/sightings"
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/stops"
	"vifproxy/internal/terminal"
	"vifproxy/internal/uses"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// A Config is what a Supervisor works with.
type Config struct {
	Read        Inputs
	Names       Names
	Connections Connections
	Clock       Clock
	Systemd     Systemd

	Firewall   firewall.Backend // of which only one Sync is under way at once
	Proxies    proxies.Starter
	Users      *tinyproxy.Identities // as Proxies starts them
	Events     *events.Emitter
	Sightings  *sightings.Book // of the AppVMs; may be nil
	Uses       *uses.Book      // of the lines of lists; may be nil
	WriteStops func(stops.Record) error
	Rest       func() // for the loop, when nothing has happened for a while, after something did

	Egress    []rules.Egress // of all proxies
	Leave     []string       // interfaces by which they may leave; none: where AppVMs are forwarded
	HoldOwned bool           // an AppVM whose proxy somebody has taken over is stopped
	Ports     proxies.PortRange
	Limits    plan.Limits
	Heartbeat time.Duration // the loop goes round at least so often, and tells systemd
	Resync    time.Duration // after which everything is read without an event
	Setup     control.Setup // what clients learn about the options
}

// Inputs read what decides which proxies run. The loop alone calls these functions, but for Forward and Listeners.
type Inputs struct {
	Links        func() (netwatch.Snapshot, error)
	LinksAt      func(netwatch.Hint) (netwatch.Snapshot, error)
	Rules        func() (rules.Set, error)
	RulesChanged func(of ...netip.Addr) bool // whether Rules may return something else for these AppVMs now
	Binary       func() (tinyproxy.Binary, error)
	Resolvers    func() ([]netip.Addr, error)
	Places       func(pages ...string) map[string]string // policy.Places: what sandboxes depend on
	Stops        func() (stops.Record, error)            // as WriteStops left them, in whatever life of the daemon

	Forward   func(context.Context) (firewall.Forward, error)
	Listeners func() (sockdiag.Listeners, error)
}

// Names are the resolver's part.
type Names struct {
	LookUp  func(ctx context.Context, host string) ([]netip.Addr, error)
	WhyNone func(uid uint32, host string) string // a name has no address for a proxy's uid
	Asker   func(uid uint32) netip.AddrPort      // where the kernel sends the questions of a proxy's uid on to; nil to nobody
	InForce func()                               // for the loop, when the firewall lets the resolver ask what Inputs.Resolvers has returned
}

// Connections are what the kernel knows of those of proxies.
type Connections struct {
	Attempts  func(uid uint32, port uint16) ([]firewall.Attempt, error)
	Beyond    func(uid uint32) (bool, error)                       // nil where nothing bounds how many these are
	Forget    func(to netip.AddrPort, from []netip.AddrPort) error // those of an ended proxy, see tracking.Forget
	ForgetAll func([]firewall.Binding) (int, error)                // those that lead nowhere, see tracking.ForgetAll
}

// A Clock counts the time since the machine began, suspends included, whatever the wall clock says.
type Clock struct {
	Now    func() time.Duration
	WakeAt func(time.Duration) // for the loop: calls Wake then; at the end of a suspend, if that is over by then
}

// Systemd is what runs the daemon.
type Systemd struct {
	Notify func(state string) // sd_notify(3); may be nil

	// MakesFiles says that systemd makes the runtime directory at each start of the daemon, and starts it again when it ends.
	MakesFiles bool
}

// notify tells systemd.
func (c *Config) notify(state string) {
	if c.Systemd.Notify != nil {
		c.Systemd.Notify(state)
	}
}

// notifyStatus tells systemd how things stand. A status has names and errors in it, and systemd takes each line for a variable of its own
// (sd_notify(3)), so it is made one line.
func (c *Config) notifyStatus(status string) { c.notify("STATUS=" + terminal.OneLine(status)) }
