package ipt

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/legacy"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// oldChains are the chains of versions that kept all rules in iptables, in both variants, with jumps to them from INPUT, OUTPUT and
// PREROUTING. Each comes before the one that it leads to.
var oldChains = []string{"VIFPROXY", "VIFPROXY-OUT", "VIFPROXY-NO"}

// discardOld removes the jumps and the rules of the chains first. The empty chains follow one by one: a chain that a foreign rule
// leads to must stay ("device or resource busy"), and that must not keep the others from going.
func (in *nftInput) discardOld(ctx context.Context) error {
	return in.nft.Converse(ctx, func(conn *ruleset.Conn) error {
		all, err := conn.Dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
		if err != nil {
			return fmt.Errorf("read chains: %w", err)
		}
		old := slices.DeleteFunc(all, func(c ruleset.Object) bool {
			table := oldTable{c.Family, c.Text(unix.NFTA_CHAIN_TABLE)}
			return !slices.Contains(oldTables, table) || !slices.Contains(oldChains, c.Text(unix.NFTA_CHAIN_NAME))
		})
		if len(old) == 0 {
			return nil
		}
		var changes [][]byte
		var d decoder
		for _, table := range oldTables {
			rules, err := conn.Dump(unix.NFT_MSG_GETRULE, table.family, table.name)
			if err != nil {
				return fmt.Errorf("read rules: %w", err)
			}
			for _, r := range rules {
				if d.comment(r) == "vifproxy" && slices.Contains(oldChains, d.leadsTo(r)) {
					rule := netlink.AppendString(netlink.AppendString(nil, unix.NFTA_RULE_TABLE, table.name), unix.NFTA_RULE_CHAIN, r.Text(unix.NFTA_RULE_CHAIN))
					changes = append(changes, ruleset.Message(unix.NFT_MSG_DELRULE, table.family, 0,
						netlink.Append(rule, unix.NFTA_RULE_HANDLE, r.Get(unix.NFTA_RULE_HANDLE)...)))
				}
			}
		}
		for _, c := range old {
			rules := netlink.AppendString(netlink.AppendString(nil, unix.NFTA_RULE_TABLE, c.Text(unix.NFTA_CHAIN_TABLE)), unix.NFTA_RULE_CHAIN, c.Text(unix.NFTA_CHAIN_NAME))
			changes = append(changes, ruleset.Message(unix.NFT_MSG_DELRULE, c.Family, 0, rules))
		}
		if err := d.Err(); err != nil {
			return fmt.Errorf("read rules: %w", err)
		}
		if err := conn.Transact(0, changes); err != nil {
			return fmt.Errorf("remove rules of an older version: %w", err)
		}
		for _, c := range old {
			chain := netlink.AppendString(netlink.AppendString(nil, unix.NFTA_CHAIN_TABLE, c.Text(unix.NFTA_CHAIN_TABLE)), unix.NFTA_CHAIN_NAME, c.Text(unix.NFTA_CHAIN_NAME))
			if e := conn.Transact(0, [][]byte{ruleset.Message(unix.NFT_MSG_DELCHAIN, c.Family, 0, chain)}); e != nil {
				err = errors.Join(err, fmt.Errorf("remove chain %s of an older version: %w", c.Text(unix.NFTA_CHAIN_NAME), e))
			}
		}
		return err
	})
}

// oldTable is one of those in which older versions had chains.
type oldTable struct {
	family byte
	name   string
}

var oldTables = []oldTable{
	{unix.NFPROTO_IPV4, "filter"}, {unix.NFPROTO_IPV4, "nat"}, {unix.NFPROTO_IPV6, "filter"},
}

// oldJump is a rule of an older version that leads to one of its chains, as iptables -S prints it.
var oldJump = regexp.MustCompile(`^-A (?:INPUT|PREROUTING|OUTPUT -m owner --uid-owner [0-9]+-[0-9]+) ` +
	`-m comment --comment vifproxy -j VIFPROXY(?:-OUT)?$`)

func (in *legacyInput) discardOld(ctx context.Context) (err error) {
	for _, ip := range []string{"ip", "ip6"} {
		tables, e := legacy.Tables(ip)
		for _, table := range tables {
			if e == nil && (table == "filter" || table == "nat" && ip == "ip") {
				e = discardOldTable(ctx, ip, table)
			}
		}
		if !errors.Is(e, legacy.ErrMayNot) { // no earlier run as who we are can have left such rules
			err = errors.Join(err, e)
		}
	}
	return err
}

func discardOldTable(ctx context.Context, ip, table string) error {
	program, err := legacy.Find(ctx, ip)
	if err != nil {
		return err
	}
	text, err := program.List(ctx, "-t", table, "-S")
	if err != nil {
		return err
	}
	var empty, remove []string
	lines := strings.Split(text, "\n")
	for _, line := range lines {
		if oldJump.MatchString(line) {
			empty = append(empty, deletion(line))
		}
	}
	for _, chain := range oldChains {
		if slices.Contains(lines, "-N "+chain) {
			empty, remove = append(empty, "-F "+chain), append(remove, "-X "+chain)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	// The empty chains come after, one by one: one that a foreign rule leads to must stay.
	err = program.Restore(ctx, table, empty...)
	for _, line := range remove {
		err = errors.Join(err, program.Restore(ctx, table, line))
	}
	return err
}
