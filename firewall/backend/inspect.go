package backend

import (
	"context"
	"fmt"
	"log/slog"

	"vifproxy/firewall"
	"vifproxy/firewall/ipt"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/ruleset"
)

var quiet = slog.New(slog.DiscardHandler)

// Detect returns which chains of others decide on this machine, as Backend.String names them, and why. An error says what the
// machine lacks.
func Detect(ctx context.Context) (kind, why string, err error) {
	rules := nft.New(quiet, firewall.Config{})
	defer rules.Close()
	qubes, err := rules.Qubes(ctx)
	if ruleset.Unsupported(err) {
		err = errNoNftables
	}
	var found firewall.Inspection
	if err == nil {
		err = ipt.New(rules, quiet, firewall.Config{}, "auto").InspectInputs(ctx, &found)
	}
	if err != nil {
		return "", "", fmt.Errorf("firewall: %w", err)
	}
	kind, why = fitting(qubes, len(found.Present)+len(found.Missing) > 0)
	return kind, why, nil
}

// Inspect looks for the rules of the backend of this name, "nftables" or "iptables", and changes nothing.
func Inspect(ctx context.Context, kind string) (firewall.Inspection, error) {
	rules := nft.New(quiet, firewall.Config{})
	defer rules.Close()
	var found firewall.Inspection
	err := rules.Inspect(ctx, &found)
	switch kind {
	case "nftables":
	case "iptables":
		if err == nil {
			err = ipt.New(rules, quiet, firewall.Config{}, kind).InspectInputs(ctx, &found)
		}
	default:
		return firewall.Inspection{}, fmt.Errorf("firewall: unknown backend %q", kind)
	}
	if ruleset.Unsupported(err) {
		return firewall.Inspection{}, nil // a kernel without nftables holds nothing of ours
	}
	return found, err
}
