package main

import (
	"context"
	"os"

	"vifproxy/control"
	"vifproxy/firewall/closed"
	"vifproxy/firewall/forward"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/tracking"
	"vifproxy/internal/callers"
	"vifproxy/internal/events"
	"vifproxy/internal/mailbox"
	"vifproxy/internal/resolvconf"
	"vifproxy/netwatch"
	"vifproxy/supervisor"
)

// impaired returns a function that tells the supervisor that a part does not work as it should, or with nil that it does.
func impaired(s *supervisor.Supervisor, what string) func(error) {
	return func(err error) { s.Trouble(events.Impaired, what, func() error { return err }) }
}

// watch starts all that wakes the supervisor, and what else goes on beside it, until ctx ends.
func (d *parts) watch(ctx context.Context, s *supervisor.Supervisor) {
	d.names.watch(s)
	d.ruleFiles.OnLate(func() { s.Wake(mailbox.Rules) })
	d.proxies.OnLogProblem(func() { s.Trouble(events.Impaired, "logs of proxies", d.proxies.LogProblem) })
	d.helpers.Go(func() { d.alarm.run(ctx, func() { s.Wake(0) }) })
	d.helpers.Go(func() {
		tell := impaired(s, "files of proxies")
		d.proxies.KeepFiles(ctx, func(err error) {
			tell(err)
			s.Wake(mailbox.Resolvers) // with them, places are read
		})
	})
	d.helpers.Go(func() { d.proxies.KeepLimits(ctx, impaired(s, "limits of proxies")) })
	d.helpers.Go(func() { tracking.KeepEvicting(ctx, impaired(s, "connection tracking")) })
	d.helpers.Go(func() { closed.KeepEnding(ctx, d.ports(), impaired(s, "closed connections")) })
	d.helpers.Go(func() { d.way.watch(ctx, func() { s.Wake(mailbox.Firewall) }) })
	d.backlog.OnChange(func() { s.Trouble(events.Impaired, "log", d.backlog.Problem) })
	watch := func(what string, input mailbox.Reason, f func(ctx context.Context, report func(error)) error) {
		d.helpers.Go(func() { s.KeepWatching(ctx, what, input, f) })
	}
	watch("netlink", mailbox.Links, func(ctx context.Context, report func(error)) error {
		return netwatch.Watch(ctx, func(h netwatch.Hint) { report(nil); s.Hint(h) })
	})
	watch("rule directory", mailbox.Rules, func(ctx context.Context, report func(error)) error {
		return d.ruleFiles.Watch(ctx, func() { s.Wake(mailbox.Rules) }, report)
	})
	if d.lists != nil {
		watch("QubesDB", mailbox.Rules, func(ctx context.Context, report func(error)) error {
			return d.lists.Watch(ctx, func() { s.Wake(mailbox.Rules) }, report)
		})
		watch("the clock", mailbox.Rules, func(ctx context.Context, report func(error)) error {
			return watchClock(ctx, func() { s.Wake(mailbox.Rules) }, report)
		})
	}
	watch("resolvers", mailbox.Resolvers, func(ctx context.Context, report func(error)) error {
		return resolvconf.Watch(ctx, resolvconf.Files, func() { s.Wake(mailbox.Resolvers) }, report)
	})
	watch("pages", mailbox.Resolvers, func(ctx context.Context, report func(error)) error { // with name servers, places are read
		return d.places.Watch(ctx, func() { s.Wake(mailbox.Resolvers) }, report)
	})
	watch("nftables", mailbox.Firewall, func(ctx context.Context, report func(error)) error {
		return nft.Watch(ctx, func() { report(nil); s.Wake(mailbox.Firewall) })
	})
	watch("links", mailbox.Firewall, func(ctx context.Context, report func(error)) error {
		return forward.WatchLinks(ctx, func() {
			report(nil)
			d.chains.LinksChanged()
			s.Wake(mailbox.Firewall)
		})
	})
	desk := callers.New(s, d.log)
	watch("control socket", 0, func(ctx context.Context, report func(error)) error {
		if err := d.socket.Again(); err != nil {
			return err
		}
		report(nil)
		return control.Serve(ctx, d.socket, desk, d.log)
	})
}

// reload has everything read again at each signal, until ctx ends.
func (d *parts) reload(ctx context.Context, s *supervisor.Supervisor, hup <-chan os.Signal) {
	for {
		select {
		case <-hup:
			d.events.Emit(events.Reloading, events.About{Why: "SIGHUP"})
			if err := s.Reload(ctx); err != nil && ctx.Err() == nil {
				d.log.Error("cannot read everything again", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
