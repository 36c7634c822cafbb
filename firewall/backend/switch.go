package backend

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"vifproxy/firewall"
	"vifproxy/firewall/ipt"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/switchboard"
)

// NeedsNat returns why a backend that Open has returned has to lead AppVMs to their proxies by nat; "" if a switchboard may do it.
func NeedsNat(fw firewall.Backend) string {
	if fw.String() == "iptables" {
		return "iptables decides on this machine who reaches it"
	}
	return ""
}

// WithSwitchboard makes a backend that Open has returned, and that holds no binding yet, lead AppVMs to their proxies by a switchboard.
// After an error the backend is not to be used, and nothing leads anywhere.
func WithSwitchboard(ctx context.Context, log *slog.Logger, fw firewall.Backend, board *switchboard.Board, cfg firewall.Config) (firewall.Backend, error) {
	switch rules := fw.(type) {
	case *nft.Backend:
		rules.UseSwitchboard()
	case *ipt.Backend:
		rules.UseSwitchboard()
	default:
		return nil, fmt.Errorf("firewall: no switchboard beside %s", fw)
	}
	cfg.Switchboard = true
	handing := switchboard.New(fw, board, cfg, log)
	if _, err := handing.Sync(ctx, firewall.State{}, func() {}); err != nil {
		// It says that the fence may not stand. The caller puts up another one before any proxy runs.
		why := strings.TrimPrefix(err.Error(), firewall.ErrUnfenced.Error()+": ")
		return nil, fmt.Errorf("firewall: load rules for the switchboard: %s", why)
	}
	return handing, nil
}
