package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/events"
	"vifproxy/internal/proxies"
	"vifproxy/tinyproxy"
)

// clean removes what a crashed vifproxyd has left, for systemd's ExecStopPost=. It is a start and an end with nothing in between, in the
// same order: first all is closed, then no process is left, then no rule. It does not touch what a running daemon has.
func clean(o options, log *slog.Logger, emitter *events.Emitter) error {
	ctx := context.Background()
	_, release, err := o.claim()
	if err != nil {
		return err
	}
	defer release()
	fw, err := backend.Open(ctx, log, o.firewall, o.ports())

	// Processes are ended even if the firewall could not be read: a binding to a port on which nothing listens is closed.
	left := proxies.EndLeft(ctx, emitter)
	proxies, launchErr := proxies.Launch(ctx, emitter, proxies.Options{
		Binary: o.tinyproxy, RuntimeDir: o.runtimeDir, CompatDir: o.compatDir, Users: new(tinyproxy.Identities),
	})
	if launchErr == nil {
		proxies.Close()
	}
	if err == nil && left == nil { // else they stay within the fence
		err = fw.Remove(ctx)
	}
	if os.Geteuid() == 0 {
		if e := cgroup.RemoveLeft(); !errors.Is(e, cgroup.ErrNone) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, left, launchErr)
}

// ports returns what the firewall has to know.
func (o options) ports() firewall.Config {
	return firewall.Config{
		ProxyPort: o.proxyPort, FirstPort: o.listenPorts.First, LastPort: o.listenPorts.Last,
		FirstUID: tinyproxy.FirstUID, LastUID: tinyproxy.LastUID, NamesUID: tinyproxy.NamesUID,
	}
}
