package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Inspection is what the kernel holds of one backend's rules, in words for people: "table ip vifproxy".
type Inspection struct {
	Present, Missing []string
}

func (i *Inspection) note(there bool, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); there {
		i.Present = append(i.Present, text)
	} else {
		i.Missing = append(i.Missing, text)
	}
}

// Fitting tells which chains of others decide on this machine, as Backend.String names them, and why. An error says what
// the machine lacks.
func Fitting(ctx context.Context) (kind, why string, err error) {
	nft := &nftBackend{log: slog.New(slog.DiscardHandler)}
	defer nft.hangUp()
	qubes, err := nft.qubes(ctx)
	if unsupported(err) {
		err = errNoNftables
	}
	var found Inspection
	if err == nil {
		err = newIptables(nft, "auto").inspectInputs(ctx, &found)
	}
	if err != nil {
		return "", "", fmt.Errorf("firewall: %w", err)
	}
	kind, why = fitting(qubes, len(found.Present)+len(found.Missing) > 0)
	return kind, why, nil
}

// Inspect looks for the rules of the backend of this name, "nftables" or "iptables", and changes nothing.
func Inspect(ctx context.Context, kind string) (Inspection, error) {
	nft := &nftBackend{log: slog.New(slog.DiscardHandler)}
	defer nft.hangUp()
	found, err := nft.inspect(ctx)
	switch kind {
	case "nftables":
	case "iptables":
		if err == nil {
			err = newIptables(nft, kind).inspectInputs(ctx, &found)
		}
	default:
		return Inspection{}, fmt.Errorf("firewall: unknown backend %q", kind)
	}
	if unsupported(err) {
		return Inspection{}, nil // a kernel without nftables holds nothing of ours
	}
	return found, err
}

func (n *nftBackend) inspect(ctx context.Context) (found Inspection, err error) {
	err = n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		found.note(now.ownTable, "table ip vifproxy")
		if now.ownTable { // else there can be nothing in it
			found.note(now.sets[portsMap], "map ports in table ip vifproxy")
			found.note(now.sets[bindingsSet], "set bindings in table ip vifproxy")
		}
		found.note(now.fenceTable, "table inet vifproxy")
		for _, c := range (Config{}).chains(nil) {
			switch {
			case c.table == "vifproxy" && now.ownTable:
				found.note(now.hasRule(c.table, c.name), "the rules of chain %s in table ip vifproxy", c.name)
			case c.table == "inet vifproxy" && now.fenceTable:
				found.note(now.hasRule(c.table, c.name), "the rules of chain %s in table inet vifproxy", c.name)
			}
		}
		if now.userChain {
			found.note(now.acceptSet, "set vifproxy in table ip qubes")
			found.note(now.hasRule("qubes", "vifproxy-input"), "the rule of chain vifproxy-input in table ip qubes")
			found.note(len(now.jumps) > 0, "the jump in chain custom-input of table ip qubes")
		}
		return nil
	})
	return found, err
}

// inspectInputs looks at the chain INPUT of both variants of iptables.
func (b *iptBackend) inspectInputs(ctx context.Context, found *Inspection) (err error) {
	for _, a := range b.admissions {
		err = errors.Join(err, a.inspect(ctx, found))
	}
	return err
}

// hasRule tells whether a chain of ours is there and not empty.
func (s snapshot) hasRule(table, chain string) bool {
	return strings.Contains(s.print, "rule "+table+" "+chain+": ")
}
