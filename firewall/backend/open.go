// Package backend chooses and opens the firewall that fits this machine.
//
// Concurrency: its functions may be called from anywhere; they are about the network of the calling thread.
package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"vifproxy/firewall"
	"vifproxy/firewall/ipt"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/ruleset"
)

// Open puts up the guard and the fence without any binding, and removes leftovers. Once it returns, nothing that an earlier run has
// left leads anywhere.
//
// All kinds keep our own tables of nftables and, if Qubes (R4.2 and later) has its user chain for it, a rule there.
// "iptables" and "auto" also keep one in the chain INPUT of iptables wherever there is that chain, now or later;
// "nftables" leaves it alone.
//
// It fails if the kernel has no nftables, or if the fence cannot be put up. If a chain of others cannot be written, AppVMs are shut
// out and nobody is let in: that is a warning here, and the error of the next Sync.
func Open(ctx context.Context, log *slog.Logger, kind string, cfg firewall.Config) (firewall.Backend, error) {
	if cfg.ProxyPort == 0 || cfg.FirstPort == 0 || cfg.FirstPort > cfg.LastPort ||
		cfg.FirstPort <= cfg.ProxyPort && cfg.ProxyPort <= cfg.LastPort {
		return nil, fmt.Errorf("firewall: port %d for AppVMs and ports %d-%d for proxies: "+
			"need a port, and a range without it", cfg.ProxyPort, cfg.FirstPort, cfg.LastPort)
	}
	if cfg.FirstUID == 0 || cfg.FirstUID > cfg.LastUID {
		return nil, fmt.Errorf("firewall: uids %d-%d of proxies: need a range without root", cfg.FirstUID, cfg.LastUID)
	}
	if cfg.NamesUID < cfg.FirstUID || cfg.NamesUID > cfg.LastUID {
		return nil, fmt.Errorf("firewall: uid %d of the resolver: need one of those of proxies", cfg.NamesUID)
	}
	if !slices.Contains([]string{"auto", "nftables", "iptables"}, kind) {
		return nil, fmt.Errorf("firewall: unknown backend %q (use auto, nftables or iptables)", kind)
	}
	return begin(ctx, log, cfg, nft.New(log, cfg), kind)
}

// begin is Open with valid arguments.
func begin(ctx context.Context, log *slog.Logger, cfg firewall.Config, rules *nft.Backend, kind string) (firewall.Backend, error) {
	beside := ipt.New(rules, log, cfg, kind)
	_, err := rules.Sync(ctx, firewall.State{}, func() {})
	if ruleset.Unsupported(err) {
		err = errNoNftables
	}
	if err != nil {
		return nil, fmt.Errorf("firewall: load rules into an empty state: %w", err)
	}

	// The guard and the fence stand, and stop what leftovers would let through. So a failure to remove leftovers is only worth
	// a warning.
	beside.DiscardOld(ctx, func(err error) { log.Warn("cannot remove leftovers of an earlier run", "err", err) })
	var chosen firewall.Backend = beside
	if kind == "nftables" {
		chosen, err = rules, beside.Dismiss(ctx)
	} else {
		err = beside.Admit(ctx)
	}
	if err != nil {
		log.Warn("cannot write the chain INPUT of iptables", "err", err)
	}
	qubes, err := rules.Qubes(ctx)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	_, why := fitting(qubes, chosen.String() == "iptables")
	if kind != "auto" {
		why = "asked for"
	}
	log.Info("firewall chosen", "backend", chosen, "why", why)
	if !qubes && chosen.String() == "nftables" {
		log.Warn("there is neither a chain custom-input in table ip qubes nor a chain INPUT of iptables: using only our own " +
			"tables; other rules must let AppVMs reach the proxies' ports themselves")
	}
	return chosen, nil
}

// errNoNftables ends the daemon: without a fence there is no proxy.
var errNoNftables = errors.New("this kernel has no nftables, which keep proxies in (use one with CONFIG_NF_TABLES=y or m, " +
	"as those of Qubes R4.1 and later and of Debian are; if it is a module, `modprobe nf_tables`)")

// fitting returns which chains of others decide on this machine, and why.
func fitting(qubes, input bool) (kind, why string) {
	switch {
	case qubes:
		return "nftables", "table ip qubes has the chain custom-input"
	case input:
		return "iptables", "iptables has a chain INPUT, and there is no table ip qubes with a chain custom-input"
	}
	return "nftables", "there is no chain INPUT of iptables"
}
