package nft

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"strings"

	"golang.org/x/sys/unix"

	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// A thing is a table, chain, set or rule that is ours, or that ours depends on.
type thing struct {
	kind        kind
	table, name string
	rule        uint64 // handle of a rule, in the chain of this name
}

func (t thing) String() string {
	text := strings.TrimSpace(string(t.kind) + " " + t.table + " " + t.name)
	if t.kind == aRule {
		return fmt.Sprintf("%s: handle %d, ", text, t.rule)
	}
	return text + ": "
}

type kind string

const (
	aTable kind = "table"
	aChain kind = "chain"
	aSet   kind = "set"
	aRule  kind = "rule"
)

// listed is the answer to a listing.
type listed struct {
	raw []byte // as it came; nil before the first

	// things are in the answer, each with its handle and with what can change without a new handle (a rule's content:
	// `nft replace rule`). Within a table the kernel never gives a handle twice, and a table that is made again has a new
	// handle itself. So equal things mean that nobody touched anything.
	things map[thing]string
}

// A listing is one request, and how its answer is read.
type listing struct {
	request []byte
	read    func(o ruleset.Object) (thing, string, bool)
}

// listings show all that is ours but the elements of sets.
var listings = [...]listing{
	{list(unix.NFT_MSG_GETTABLE, unix.NFPROTO_UNSPEC, nil), readTable},
	{list(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, nil), readChain},
	{list(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC, nil), readSet},
	// Two tables of one name take two requests: the kernel ends after the first (nf_tables_dump_rules).
	{list(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4, inTable(ownTable)), readRule},
	{list(unix.NFT_MSG_GETRULE, unix.NFPROTO_INET, inTable(fenceTable)), readRule},
	{list(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4, inChain(qubesTable, userChain)), readRule},
	{list(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4, inChain(qubesTable, acceptChain)), readRule},
}

// Chains of Qubes' table.
const (
	userChain   = "custom-input"   // where users put rules
	acceptChain = "vifproxy-input" // ours
)

func list(request uint16, family byte, attrs []byte) []byte {
	return ruleset.Message(request, family, unix.NLM_F_DUMP, attrs)
}

func inTable(table string) []byte {
	return netlink.AppendString(nil, unix.NFTA_RULE_TABLE, bare(table))
}

func inChain(table, chain string) []byte {
	return netlink.AppendString(inTable(table), unix.NFTA_RULE_CHAIN, chain)
}

func readTable(o ruleset.Object) (thing, string, bool) {
	table, ours := tableOf(o, unix.NFTA_TABLE_NAME)
	flags := o.Number(unix.NFTA_TABLE_FLAGS)
	if table == qubesTable {
		flags = 0 // they are others'
	}
	return thing{kind: aTable, table: table}, fmt.Sprintf("handle %d, flags %d", o.Number(ruleset.TableHandle), flags), ours
}

func readChain(o ruleset.Object) (thing, string, bool) {
	table, ours := tableOf(o, unix.NFTA_CHAIN_TABLE)
	if !ours {
		return thing{}, "", false
	}
	name := o.Text(unix.NFTA_CHAIN_NAME)
	return thing{kind: aChain, table: table, name: name}, fmt.Sprintf("handle %d, policy %d, flags %d", o.Number(unix.NFTA_CHAIN_HANDLE),
		o.Number(unix.NFTA_CHAIN_POLICY), o.Number(ruleset.ChainFlags)), table != qubesTable || name == userChain || name == acceptChain
}

func readSet(o ruleset.Object) (thing, string, bool) {
	table, ours := tableOf(o, unix.NFTA_SET_TABLE)
	if !ours {
		return thing{}, "", false
	}
	name := o.Text(unix.NFTA_SET_NAME)
	return thing{kind: aSet, table: table, name: name}, fmt.Sprintf("handle %d", o.Number(ruleset.SetHandle)),
		table != qubesTable || name == acceptSet.name
}

func readRule(o ruleset.Object) (thing, string, bool) {
	table, ours := tableOf(o, unix.NFTA_RULE_TABLE)
	if !ours {
		return thing{}, "", false
	}
	t := thing{kind: aRule, table: table, name: o.Text(unix.NFTA_RULE_CHAIN), rule: o.Number(unix.NFTA_RULE_HANDLE)}
	// Before Linux 4.11 the kernel lists all rules of the table (6e1f760e13c7).
	ours = table != qubesTable || t.name == userChain && isJump(o) || t.name == acceptChain
	return t, fmt.Sprintf("content %08x", crc32.ChecksumIEEE(o.Get(unix.NFTA_RULE_EXPRESSIONS))), ours
}

// tableOf returns the name of an object's table. It is false if nothing of ours can be in it.
func tableOf(o ruleset.Object, attr uint16) (table string, ours bool) {
	name := bytes.TrimSuffix(o.Get(attr), []byte{0})
	switch {
	case o.Family == unix.NFPROTO_IPV4 && string(name) == ownTable:
		return ownTable, true
	case o.Family == unix.NFPROTO_INET && string(name) == bare(fenceTable):
		return fenceTable, true
	case o.Family == unix.NFPROTO_IPV4 && string(name) == qubesTable:
		return qubesTable, true
	}
	return "", false
}

// isJump reports whether a rule is ours in custom-input: it has our comment and names our chain. A rule that only has the
// same comment is the user's.
func isJump(o ruleset.Object) bool {
	return string(o.Get(unix.NFTA_RULE_USERDATA)) == userdata("vifproxy") &&
		bytes.Contains(o.Get(unix.NFTA_RULE_EXPRESSIONS), []byte(acceptChain+"\x00"))
}

// things reads an answer.
func (l listing) things(raw []byte) map[thing]string {
	all := make(map[thing]string)
	for o := range ruleset.Objects(raw) {
		if t, state, ours := l.read(o); ours {
			all[t] = state
		}
	}
	return all
}
