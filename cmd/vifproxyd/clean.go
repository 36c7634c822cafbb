package main

import (
	"context"
	"errors"
	"log/slog"

	"vifproxy/control"
	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/internal/events"
	"vifproxy/internal/proxies"
	"vifproxy/tinyproxy"
)

// clean takes away what a vifproxyd that crashed has left, for systemd's ExecStopPost=. It is a start and an end with
// nothing in between, in the same order: closed first, then no process, then no rule. It leaves a running daemon alone.
func clean(o options, log *slog.Logger, emitter *events.Emitter) error {
	ctx := context.Background()
	socket, err := control.Listen(o.controlSocket, o.socketGroup)
	if err != nil {
		return err
	}
	defer socket.Close()
	name, err := alone()
	if err != nil {
		return err
	}
	defer name.Close()
	fw, err := backend.Open(ctx, log, o.firewall, o.ports())

	// Also when the firewall could not be read: a binding to a port where nobody listens is closed.
	proxies, launchErr := proxies.Launch(ctx, emitter, proxies.Options{
		Binary: o.tinyproxy, RuntimeDir: o.runtimeDir, CompatDir: o.compatDir, Users: new(tinyproxy.Identities),
	})
	if launchErr == nil {
		proxies.Close()
	}
	if err == nil {
		err = fw.Remove(ctx)
	}
	return errors.Join(err, launchErr)
}

// ports is what the firewall has to know.
func (o options) ports() firewall.Config {
	return firewall.Config{
		ProxyPort: o.proxyPort, FirstPort: o.listenPorts.First, LastPort: o.listenPorts.Last,
		FirstUID: tinyproxy.FirstUID, LastUID: tinyproxy.LastUID,
	}
}
