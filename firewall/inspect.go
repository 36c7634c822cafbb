package firewall

import (
	"context"
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

// Fitting tells which backend "auto" chooses on this machine, and why. An error says what it lacks.
func Fitting(ctx context.Context) (kind, why string, err error) {
	nft := &nftBackend{}
	defer nft.hangUp()
	qubes, err := nft.qubes(ctx)
	if err != nil && !unsupported(err) {
		return "", "", fmt.Errorf("firewall: %w", err)
	}
	return choose("auto", qubes, tools{nft: find("nft"), iptables: find("iptables")})
}

// Inspect looks for the rules of the backend of this name, "nftables" or "iptables", around proxies of the uids of
// cfg. It changes nothing.
func Inspect(ctx context.Context, kind string, cfg Config) (Inspection, error) {
	return inspect(ctx, kind, find("iptables"), cfg)
}

func inspect(ctx context.Context, kind, iptables string, cfg Config) (Inspection, error) {
	switch {
	case kind == "nftables":
		return inspectNft(ctx)
	case kind != "iptables":
		return Inspection{}, fmt.Errorf("firewall: unknown backend %q", kind)
	case iptables == "":
		return Inspection{}, nil // whatever it would show, nobody could have made it
	}
	return inspectIptables(ctx, iptables, cfg)
}

func inspectNft(ctx context.Context) (Inspection, error) {
	var found Inspection
	nft := &nftBackend{}
	defer nft.hangUp()
	err := nft.do(ctx, func() error {
		now, err := nft.conn.read()
		if err != nil {
			return err
		}
		found.note(now.ownTable, "table ip vifproxy")
		if now.ownTable { // else there can be nothing in it
			found.note(now.sets[portsMap], "map ports in table ip vifproxy")
			found.note(now.sets[bindingsSet], "set bindings in table ip vifproxy")
			for _, chain := range []string{"prerouting", "input"} {
				found.note(now.hasRule("vifproxy", chain), "the rules of chain %s in table ip vifproxy", chain)
			}
		}
		found.note(now.fenceTable, "table inet vifproxy")
		if now.fenceTable {
			for _, chain := range []string{"output", "egress", "refuse"} {
				found.note(now.hasRule("inet vifproxy", chain), "the rules of chain %s in table inet vifproxy", chain)
			}
		}
		if now.userChain {
			found.note(now.acceptSet, "set vifproxy in table ip qubes")
			found.note(now.hasRule("qubes", "vifproxy-input"), "the rule of chain vifproxy-input in table ip qubes")
			found.note(len(now.jumps) > 0, "the jump in chain custom-input of table ip qubes")
		}
		return nil
	})
	if unsupported(err) {
		err = nil // a kernel without nftables holds nothing of ours
	}
	return found, err
}

// hasRule tells whether a chain of ours is there and not empty.
func (s snapshot) hasRule(table, chain string) bool {
	return strings.Contains(s.print, "rule "+table+" "+chain+": ")
}

func inspectIptables(ctx context.Context, path string, cfg Config) (Inspection, error) {
	var found Inspection
	backend, err := newIptables(slog.New(slog.DiscardHandler), cfg, path)
	if err != nil {
		return found, err
	}
	six, filter, nat, err := backend.readAll(ctx)
	if err != nil {
		return found, err
	}
	for _, table := range []*iptTable{filter, nat, six} {
		if table == nil {
			continue
		}
		name := table.name
		chains := map[string][]string{"filter": ourChains, "nat": ourChains[:1]}[name]
		if table == six {
			name, chains = "filter of IPv6", ourChains[1:]
		}
		for _, chain := range chains {
			found.note(table.there[chain], "chain %s in table %s", chain, name)
			if table.there[chain] && table != nat { // in nat there are as many as there are bindings
				found.note(len(table.rules[chain]) > 0, "the rules of chain %s in table %s", chain, name)
			}
		}
		for _, j := range table.jumps {
			chain, _ := j.words()
			found.note(j.count > 0, "the jump in chain %s of table %s", chain, name)
			if j.count > 0 && !j.first {
				found.note(false, "the first place for the jump in chain %s of table %s", chain, name)
			}
		}
	}
	return found, nil
}
