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
	"vifproxy/internal/sockdiag"
	"vifproxy/internal/stops"
	"vifproxy/netwatch"
	"vifproxy/rules"
	"vifproxy/tinyproxy"
)

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
	Proxies       proxies.Starter
	Users         *tinyproxy.Identities // as Proxies starts them
	Confined      control.Confinement   // how Proxies are confined
	Egress        []rules.Egress        // of all proxies
	Leave         []string              // interfaces by which they may leave; none: where AppVMs are forwarded
	ReadForward   func(context.Context) (firewall.Forward, error)
	Ports         proxies.PortRange
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
