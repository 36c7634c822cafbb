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
	"vifproxy/internal/uses"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

// A Config is what a Supervisor works with. The loop alone calls the functions of the first group. The others may be called from any
// goroutine, but only one Sync of the firewall is under way at once.
type Config struct {
	ReadLinks     func() (netwatch.Snapshot, error)
	LookAtLinks   func(netwatch.Hint) (netwatch.Snapshot, error)
	ReadRules     func() (rules.Set, error)
	RulesChanged  func(of ...netip.Addr) bool // whether ReadRules may return something else for these AppVMs now
	ReadBinary    func() (tinyproxy.Binary, error)
	ReadResolvers func() ([]netip.Addr, error)
	ReadPlaces    func(pages ...string) map[string]string // policy.Places: what sandboxes depend on
	ReadStops     func() (stops.Record, error)            // as WriteStops left them, in whatever life of the daemon
	WakeAt        func(time.Duration)                     // calls Wake at a BootTime; at the end of a suspend, if that is over by then
	Rest          func()                                  // when nothing has happened for a while, after something did

	ReadListeners func() (sockdiag.Listeners, error)
	ReadForward   func(context.Context) (firewall.Forward, error)
	LookUp        func(ctx context.Context, host string) ([]netip.Addr, error)
	NoName        func(uid uint32, host string) (why string)
	Asker         func(uid uint32) netip.AddrPort // where the kernel sends the questions of a proxy's uid on to; nil to nobody
	InForce       func()                          // when the firewall lets the resolver ask what ReadResolvers has returned
	Attempts      func(uid uint32, port uint16) ([]firewall.Attempt, error)
	Beyond        func(uid uint32) (bool, error) // nil where nothing bounds how many these are
	WriteStops    func(stops.Record) error
	BootTime      func() time.Duration                                 // since the machine began, suspends included, whatever the clock says
	Forget        func(to netip.AddrPort, from []netip.AddrPort) error // connections of an ended proxy, see tracking.Forget
	ForgetAll     func([]firewall.Binding) (int, error)                // those that lead nowhere, see tracking.ForgetAll
	Notify        func(state string)                                   // sd_notify(3)
	Firewall      firewall.Backend
	Proxies       proxies.Starter
	Events        *events.Emitter
	Users         *tinyproxy.Identities // as Proxies starts them

	Confined  control.Confinement // how Proxies are confined
	Egress    []rules.Egress      // of all proxies
	Leave     []string            // interfaces by which they may leave; none: where AppVMs are forwarded
	Sightings *sightings.Book     // of the AppVMs; may be nil
	Uses      *uses.Book          // of the lines of lists; may be nil
	HoldOwned bool                // an AppVM whose proxy somebody has taken over is stopped
	Ports     proxies.PortRange
	Limits    plan.Limits
	Interval  time.Duration // of signs of life to systemd, at most
	Look      time.Duration // of reading everything without an event
	Setup     control.Setup // what clients learn about the options

	// SystemdMakesFiles says that systemd makes the runtime directory at each start of the daemon, and starts it again when it ends.
	SystemdMakesFiles bool
}

// notify tells systemd.
func (c *Config) notify(state string) {
	if c.Notify != nil {
		c.Notify(state)
	}
}
