package nft

import (
	"context"

	"vifproxy/firewall"
)

// Inspect notes which of our rules are there.
func (n *Backend) Inspect(ctx context.Context, found *firewall.Inspection) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		cfg := firewall.Config{Switchboard: now.hasChain(ownTable, "untracked_in")}
		found.Note(now.hasTable(ownTable), "table ip vifproxy")
		if now.hasTable(ownTable) { // else there can be nothing in it
			if !cfg.Switchboard {
				found.Note(now.hasSet(portsMap), "map ports in table ip vifproxy")
			}
			found.Note(now.hasSet(bindingsSet), "set bindings in table ip vifproxy")
		}
		found.Note(now.hasTable(fenceTable), "table inet vifproxy")
		for _, c := range chains(cfg, nil) {
			switch {
			case c.table == "vifproxy" && now.hasTable(ownTable):
				found.Note(len(now.rules(c.table, c.name)) > 0, "the rules of chain %s in table ip vifproxy", c.name)
			case c.table == "inet vifproxy" && now.hasTable(fenceTable):
				found.Note(len(now.rules(c.table, c.name)) > 0, "the rules of chain %s in table inet vifproxy", c.name)
			}
		}
		if now.hasChain(qubesTable, userChain) {
			found.Note(now.hasSet(acceptSet), "set vifproxy in table ip qubes")
			found.Note(len(now.rules(qubesTable, acceptChain)) > 0, "the rule of chain vifproxy-input in table ip qubes")
			found.Note(len(now.rules(qubesTable, userChain)) > 0, "the jump in chain custom-input of table ip qubes")
		}
		return nil
	})
}
