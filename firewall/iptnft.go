package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"golang.org/x/sys/unix"
)

// nftInput is INPUT of iptables-nft: chain INPUT of nftables' table ip filter.
//
// It is read and written through netlink, for one native rule of nft in the table makes iptables-nft -S and -C fail, and
// -save leave the table out (1.8.9: "is incompatible, use 'nft' tool"; "unknown ipv4 meta key").
type nftInput struct {
	nft *nftBackend

	// What was read last. It is what there is as long as all transactions since are ours, since each adds one to the
	// generation, and none of ours but write's is about this chain.
	conn       *ruleset // by which it was read; nil if it was not
	generation uint32
	made       uint32 // transactions of ours until then
	there      bool
	rules      []inputRule
}

func (in *nftInput) String() string { return "chain INPUT of table ip filter" }

var inputRules = name(name(nil, unix.NFTA_RULE_TABLE, "filter"), unix.NFTA_RULE_CHAIN, "INPUT")

func (in *nftInput) read(ctx context.Context) (rules []inputRule, there bool, err error) {
	err = in.nft.do(ctx, func() error {
		conn := in.nft.conn
		generation, err := conn.generation()
		if err != nil {
			return err
		}
		if conn != in.conn || generation-in.generation != conn.made-in.made {
			in.conn = nil
			if in.rules, in.there, err = readInput(conn); err != nil {
				return fmt.Errorf("read %s: %w", in, err)
			}
		}
		in.conn, in.generation, in.made = conn, generation, conn.made
		return nil
	})
	return in.rules, in.there, err
}

func readInput(conn *ruleset) (rules []inputRule, there bool, err error) {
	_, err = conn.ask(message(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_IPV4, 0,
		name(name(nil, unix.NFTA_CHAIN_TABLE, "filter"), unix.NFTA_CHAIN_NAME, "INPUT")))
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	all, err := conn.ask(message(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4, unix.NLM_F_DUMP, inputRules))
	for _, rule := range all {
		handle := rule.number(unix.NFTA_RULE_HANDLE)
		content := crc32.ChecksumIEEE(rule[unix.NFTA_RULE_EXPRESSIONS])
		rules = append(rules, inputRule{rule.comment() == admissionComment, fmt.Sprintf("%d %08x", handle, content), handle})
	}
	return rules, true, err
}

func (in *nftInput) write(ctx context.Context, gone []inputRule, admit bool) error {
	var changes [][]byte
	for _, r := range gone {
		changes = append(changes, message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, 0, attribute(slices.Clone(inputRules),
			unix.NFTA_RULE_HANDLE, net64(r.handle)...)))
	}
	if admit {
		changes = append(changes, in.nft.cfg.admission())
	}
	in.conn = nil
	return in.nft.do(ctx, func() error {
		err := in.nft.conn.transact(in.generation, changes)
		if last := &in.nft.conn.last; err == nil && last.generation == in.generation {
			last.generation = following(in.generation) // what it says is not about this chain
		}
		return err
	})
}

// admission is the request that inserts the rule as iptables-nft writes it, so that iptables shows and saves it: with its
// extensions tcp, conntrack and comment, which nft_compat.c in the kernel runs.
func (c Config) admission() []byte {
	var comment xtComment
	copy(comment[:], admissionComment)
	rule := all(tcp,
		extension("tcp", 0, xtTCP{Sources: [2]uint16{0, 65535}, Destinations: [2]uint16{c.FirstPort, c.LastPort}}),
		extension("conntrack", 3, xtConntrack{
			Matches: matchState | matchOriginalPort, States: stateDNAT, OriginalPort: c.ProxyPort, OriginalPortLast: c.ProxyPort,
		}),
		extension("comment", 0, comment),
		accept)
	attrs := attribute(slices.Clone(inputRules), unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, rule...)
	compat := group(unix.NFTA_RULE_COMPAT, // for extensions that are for one protocol
		number(unix.NFTA_RULE_COMPAT_PROTO, unix.IPPROTO_TCP), number(unix.NFTA_RULE_COMPAT_FLAGS, 0))
	return message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, unix.NLM_F_CREATE, attribute(attrs, compat.number, compat.data...))
}

// extension is one of iptables' matches.
func extension(match string, revision uint32, info any) rule {
	data, _ := binary.Append(nil, binary.NativeEndian, info) // a struct of numbers has no error
	return expression("match", text(unix.NFTA_MATCH_NAME, match), number(unix.NFTA_MATCH_REV, revision),
		attr{unix.NFTA_MATCH_INFO, data})
}

// What the extensions are told, of the kernel's include/uapi/linux/netfilter; each with its padding to 8 bytes (XT_ALIGN).
type (
	xtTCP struct { // struct xt_tcp
		Sources, Destinations              [2]uint16
		Option, FlagsMask, FlagsCmp, Other uint8
		_                                  [4]byte
	}
	xtConntrack struct { // struct xt_conntrack_mtinfo3
		_                 [8][16]byte // addresses and masks
		_                 [2]uint32   // when it expires
		_, _              uint16      // protocol, original source port
		OriginalPort      uint16      // to which the connection was made, before any translation
		_, _              uint16      // ports of the answers
		Matches, Inverted uint16
		States, Statuses  uint16
		_                 uint16
		OriginalPortLast  uint16
		_, _              uint16
		_                 [6]byte
	}
	xtComment [256]byte // struct xt_comment_info
)

const (
	matchState        = 1 << 0 // XT_CONNTRACK_STATE
	matchOriginalPort = 1 << 9 // XT_CONNTRACK_ORIGDST_PORT
	stateDNAT         = 1 << 7 // XT_CONNTRACK_STATE_DNAT
)

// expressions are what those of this name in a rule say.
func (o object) expressions(name string) (all [][]byte) {
	for _, e := range attributes(o[unix.NFTA_RULE_EXPRESSIONS]) {
		if string(inside(e, unix.NFTA_EXPR_NAME)) == name+"\x00" {
			all = append(all, inside(e, unix.NFTA_EXPR_DATA))
		}
	}
	return all
}

// comment is what was given to iptables as --comment.
func (o object) comment() string {
	for _, match := range o.expressions("match") {
		if string(inside(match, unix.NFTA_MATCH_NAME)) == "comment\x00" {
			return unix.ByteSliceToString(inside(match, unix.NFTA_MATCH_INFO))
		}
	}
	return ""
}

// leadsTo is the chain that a rule jumps to.
func (o object) leadsTo() string {
	for _, immediate := range o.expressions("immediate") {
		return unix.ByteSliceToString(inside(immediate, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN))
	}
	return ""
}

// discardOld removes jumps first, and the rules of the chains with them. The empty chains come after, one by one: one that a
// foreign rule leads to must stay ("device or resource busy"), and that must not keep the rest from going.
func (in *nftInput) discardOld(ctx context.Context) error {
	return in.nft.do(ctx, func() error {
		conn := in.nft.conn
		all, err := conn.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, "")
		if err != nil {
			return fmt.Errorf("read chains: %w", err)
		}
		old := slices.DeleteFunc(all, func(c object) bool {
			table := oldTable{c[0][0], c.text(unix.NFTA_CHAIN_TABLE)}
			return !slices.Contains(oldTables, table) || !slices.Contains(oldChains, c.text(unix.NFTA_CHAIN_NAME))
		})
		if len(old) == 0 {
			return nil
		}
		var changes [][]byte
		for _, table := range oldTables {
			rules, err := conn.dump(unix.NFT_MSG_GETRULE, table.family, table.name)
			if err != nil {
				return fmt.Errorf("read rules: %w", err)
			}
			for _, r := range rules {
				if r.comment() == "vifproxy" && slices.Contains(oldChains, r.leadsTo()) {
					rule := name(name(nil, unix.NFTA_RULE_TABLE, table.name), unix.NFTA_RULE_CHAIN, r.text(unix.NFTA_RULE_CHAIN))
					changes = append(changes, message(unix.NFT_MSG_DELRULE, table.family, 0,
						attribute(rule, unix.NFTA_RULE_HANDLE, r[unix.NFTA_RULE_HANDLE]...)))
				}
			}
		}
		for _, c := range old {
			rules := name(name(nil, unix.NFTA_RULE_TABLE, c.text(unix.NFTA_CHAIN_TABLE)), unix.NFTA_RULE_CHAIN, c.text(unix.NFTA_CHAIN_NAME))
			changes = append(changes, message(unix.NFT_MSG_DELRULE, c[0][0], 0, rules))
		}
		if err := conn.transact(0, changes); err != nil {
			return fmt.Errorf("remove rules of an older version: %w", err)
		}
		for _, c := range old {
			chain := name(name(nil, unix.NFTA_CHAIN_TABLE, c.text(unix.NFTA_CHAIN_TABLE)), unix.NFTA_CHAIN_NAME, c.text(unix.NFTA_CHAIN_NAME))
			if e := conn.transact(0, [][]byte{message(unix.NFT_MSG_DELCHAIN, c[0][0], 0, chain)}); e != nil {
				err = errors.Join(err, fmt.Errorf("remove chain %s of an older version: %w", c.text(unix.NFTA_CHAIN_NAME), e))
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
