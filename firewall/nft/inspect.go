package nft

import (
	"context"
	"strings"

	"vifproxy/firewall"
)

// Inspect notes which of our rules are there.
func (n *Backend) Inspect(ctx context.Context, found *firewall.Inspection) error {
	return n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		found.Note(now.ownTable, "table ip vifproxy")
		if now.ownTable { // else there can be nothing in it
			found.Note(now.sets[portsMap], "map ports in table ip vifproxy")
			found.Note(now.sets[bindingsSet], "set bindings in table ip vifproxy")
		}
		found.Note(now.fenceTable, "table inet vifproxy")
		for _, c := range chains(firewall.Config{}, nil) {
			switch {
			case c.table == "vifproxy" && now.ownTable:
				found.Note(now.hasRule(c.table, c.name), "the rules of chain %s in table ip vifproxy", c.name)
			case c.table == "inet vifproxy" && now.fenceTable:
				found.Note(now.hasRule(c.table, c.name), "the rules of chain %s in table inet vifproxy", c.name)
			}
		}
		if now.userChain {
			found.Note(now.acceptSet, "set vifproxy in table ip qubes")
			found.Note(now.hasRule("qubes", "vifproxy-input"), "the rule of chain vifproxy-input in table ip qubes")
			found.Note(len(now.jumps) > 0, "the jump in chain custom-input of table ip qubes")
		}
		return nil
	})
}

// hasRule tells whether a chain of ours is there and not empty.
func (s snapshot) hasRule(table, chain string) bool {
	return strings.Contains(s.print, "rule "+table+" "+chain+": ")
}
