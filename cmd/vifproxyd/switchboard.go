package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/firewall/switchboard"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/defaults"
	"vifproxy/tinyproxy/process"
)

// A way is how AppVMs get to their proxies.
type way struct {
	firewall firewall.Backend
	kernel   *handover.Switchboard // whose programs also set options of the proxies' connections; nil for none
	board    *switchboard.Board    // nil: nat leads AppVMs to their proxies
	said     control.Switchboard
}

// choose has the kernel's switchboard hand connections over, if there is one for these proxies. Otherwise nat goes on, as fw does
// it. group is the directory of the proxies' cgroup, and inherited what systemd has handed over.
func choose(ctx context.Context, log *slog.Logger, o options, fw firewall.Backend, group string, inherited []*os.File) (*way, error) {
	w := &way{firewall: fw}
	why := w.obtain(ctx, o, group, inherited)
	if why == nil {
		why = w.handOver(ctx, log, o)
	}
	if w.firewall == nil {
		var err error
		if w.firewall, err = backend.Open(ctx, log, o.firewall, o.ports()); err != nil {
			w.close()
			return nil, err
		}
	}
	w.said.Loaded = w.kernel != nil
	if w.said.Used = w.board != nil; !w.said.Used {
		w.said.Why = why.Error()
	}
	log.Info("way to the proxies chosen", "switchboard", w.said.Used, "why", w.said.Why)
	return w, nil
}

// obtain takes the kernel's switchboard over, and returns why there is none.
func (w *way) obtain(ctx context.Context, o options, group string, inherited []*os.File) (err error) {
	switch {
	case o.switchboard == "off":
		err = errors.New("--switchboard=off")
	case group == "":
		err = errors.New("proxies have no cgroup of their own")
	default:
		w.kernel, err = handover.Obtain(ctx, inherited, handover.Options{Program: defaults.Helper("vifproxy-switchboard"), Group: group})
		return err
	}
	for _, f := range inherited {
		f.Close()
	}
	return err
}

// handOver returns why nat is needed. If rules of nat and of the switchboard are mixed by then, it takes the firewall away.
func (w *way) handOver(ctx context.Context, log *slog.Logger, o options) error {
	if why := backend.NeedsNat(w.firewall); why != "" {
		return errors.New(why)
	}
	board, err := switchboard.Open(w.kernel, o.proxyPort)
	if err != nil {
		return err
	}
	handing, err := backend.WithSwitchboard(ctx, log, w.firewall, board, o.ports())
	if err != nil {
		err = errors.Join(err, board.Close(), w.firewall.Remove(ctx))
		w.firewall = nil
		return err
	}
	w.firewall, w.board = handing, board
	return nil
}

// launch returns the switchboard as what starts proxies has to know it.
func (w *way) launch() process.Switchboard {
	if w.board == nil {
		return nil
	}
	return w.board
}

// forget returns what deletes tracked connections of a proxy that has ended, and forgetAll those of an earlier run. Connections that are
// handed over are not tracked.
func (w *way) forget() func(to netip.AddrPort, from []netip.AddrPort) error {
	if w.board != nil {
		return func(netip.AddrPort, []netip.AddrPort) error { return nil }
	}
	return tracking.Forget
}

func (w *way) forgetAll(o options) func([]firewall.Binding) (int, error) {
	if w.board != nil {
		return func([]firewall.Binding) (int, error) { return 0, nil }
	}
	return func(bound []firewall.Binding) (int, error) { return tracking.ForgetAll(o.ports(), bound) }
}

// boardInterval is the time between looks whether the switchboard is as it was left.
const boardInterval = 10 * time.Second

// watch calls changed when somebody has detached the programs of the switchboard, once, and each time that it sees that somebody has
// changed its maps, until ctx ends. The kernel sends no event for either.
func (w *way) watch(ctx context.Context, changed func()) {
	if w.board == nil {
		return
	}
	tick := time.NewTicker(boardInterval)
	defer tick.Stop()
	for detached := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		gone := w.kernel.Attached() != nil // only the next vifproxy-switchboard attaches them again
		if gone && !detached || w.board.Undone() {
			changed()
		}
		detached = detached || gone
	}
}

func (w *way) close() {
	if w.board != nil {
		_ = w.board.Close()
	}
	if w.kernel != nil {
		_ = w.kernel.Close()
	}
}
