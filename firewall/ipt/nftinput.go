package ipt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/nft"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// nftInput is INPUT of iptables-nft: chain INPUT of nftables' table ip filter.
//
// It is read and written through netlink, because one native rule of nft in the table makes iptables-nft -S and -C fail, and
// -save leave the table out (1.8.9: "is incompatible, use 'nft' tool"; "unknown ipv4 meta key").
type nftInput struct {
	nft *nft.Backend
	cfg *firewall.Config

	// The last reading. It is still true as long as all transactions since then are ours: each adds one to the generation, and of
	// ours only those of write are about this chain.
	conn       *ruleset.Conn // by which it was read; nil if it was not
	generation uint32
	made       uint32 // transactions of ours until then
	there      bool
	rules      []inputRule
}

func (in *nftInput) String() string { return "chain INPUT of table ip filter" }

var inputRules = netlink.AppendString(netlink.AppendString(nil, unix.NFTA_RULE_TABLE, "filter"), unix.NFTA_RULE_CHAIN, "INPUT")

func (in *nftInput) read(ctx context.Context) (rules []inputRule, there bool, err error) {
	err = in.nft.Converse(ctx, func(conn *ruleset.Conn) error {
		generation, err := conn.Generation()
		if err != nil {
			return err
		}
		if conn != in.conn || generation-in.generation != conn.Made()-in.made {
			in.conn = nil
			if in.rules, in.there, err = readInput(conn); err != nil {
				return fmt.Errorf("read %s: %w", in, err)
			}
		}
		in.conn, in.generation, in.made = conn, generation, conn.Made()
		return nil
	})
	return in.rules, in.there, err
}

func readInput(conn *ruleset.Conn) (rules []inputRule, there bool, err error) {
	_, err = conn.Ask(ruleset.Message(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_IPV4, 0,
		netlink.AppendString(netlink.AppendString(nil, unix.NFTA_CHAIN_TABLE, "filter"), unix.NFTA_CHAIN_NAME, "INPUT")))
	if errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	var d decoder
	err = conn.Walk(ruleset.Message(unix.NFT_MSG_GETRULE, unix.NFPROTO_IPV4, unix.NLM_F_DUMP, inputRules), func(rule ruleset.Object) error {
		handle := rule.Number(unix.NFTA_RULE_HANDLE)
		content := crc32.ChecksumIEEE(rule.Get(unix.NFTA_RULE_EXPRESSIONS))
		rules = append(rules, inputRule{d.comment(rule) == firewall.AdmissionComment, fmt.Sprintf("%d %08x", handle, content), handle})
		return d.Err()
	})
	return rules, true, err
}

func (in *nftInput) write(ctx context.Context, gone []inputRule, admit bool) error {
	var changes [][]byte
	for _, r := range gone {
		changes = append(changes, ruleset.Message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, 0, netlink.Append(slices.Clone(inputRules),
			unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, r.handle)...)))
	}
	if admit {
		changes = append(changes, admissionRule(*in.cfg))
	}
	in.conn = nil
	return in.nft.TransactBeside(ctx, in.generation, changes)
}

// admissionRule returns the request that inserts the rule as iptables-nft writes it, so that iptables shows and saves it. It uses the
// extensions tcp, conntrack and comment, which nft_compat.c in the kernel runs.
func admissionRule(c firewall.Config) []byte {
	var comment xtComment
	copy(comment[:], firewall.AdmissionComment)
	to := func(first, last uint16) nft.Rule {
		return nft.All(nft.TCP, extension("tcp", 0, xtTCP{Sources: [2]uint16{0, 65535}, Destinations: [2]uint16{first, last}}))
	}
	what := nft.All(to(c.FirstPort, c.LastPort), extension("conntrack", 3, xtConntrack{
		Matches: matchState | matchOriginalPort, States: stateDNAT, OriginalPort: c.ProxyPort, OriginalPortLast: c.ProxyPort,
	}))
	if c.Switchboard {
		what = nft.All(nft.FromVif, to(c.ProxyPort, c.ProxyPort))
	}
	rule := nft.All(what, extension("comment", 0, comment), nft.Accept)
	attrs := netlink.Append(slices.Clone(inputRules), unix.NLA_F_NESTED|unix.NFTA_RULE_EXPRESSIONS, rule...)
	attrs = netlink.AppendNested(attrs, unix.NFTA_RULE_COMPAT, func(to []byte) []byte { // for extensions that are for one protocol
		to = netlink.Append(to, unix.NFTA_RULE_COMPAT_PROTO, binary.BigEndian.AppendUint32(nil, unix.IPPROTO_TCP)...)
		return netlink.Append(to, unix.NFTA_RULE_COMPAT_FLAGS, 0, 0, 0, 0)
	})
	return ruleset.Message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, unix.NLM_F_CREATE, attrs)
}

// extension returns one of iptables' matches.
func extension(match string, revision uint32, info any) nft.Rule {
	data, _ := binary.Append(nil, binary.NativeEndian, info) // a struct of numbers has no error
	return nft.Expression("match", nft.Text(unix.NFTA_MATCH_NAME, match), nft.Number(unix.NFTA_MATCH_REV, revision),
		nft.Attr{Kind: unix.NFTA_MATCH_INFO, Data: data})
}

// Parameters of the extensions, from the kernel's include/uapi/linux/netfilter, each with its padding to 8 bytes (XT_ALIGN).
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

// decoder reads the expressions of rules.
type decoder struct{ netlink.Decoder }

// expressions returns the data of the expressions of this name in a rule.
func (d *decoder) expressions(o ruleset.Object, name string) (all [][]byte) {
	for _, e := range d.All(o.Get(unix.NFTA_RULE_EXPRESSIONS)) {
		if string(d.Find(e, unix.NFTA_EXPR_NAME)) == name+"\x00" {
			all = append(all, d.Find(e, unix.NFTA_EXPR_DATA))
		}
	}
	return all
}

// comment returns the text that was given to iptables as --comment.
func (d *decoder) comment(o ruleset.Object) string {
	for _, match := range d.expressions(o, "match") {
		if string(d.Find(match, unix.NFTA_MATCH_NAME)) == "comment\x00" {
			return unix.ByteSliceToString(d.Find(match, unix.NFTA_MATCH_INFO))
		}
	}
	return ""
}

// leadsTo returns the chain that a rule jumps to.
func (d *decoder) leadsTo(o ruleset.Object) string {
	for _, immediate := range d.expressions(o, "immediate") {
		return unix.ByteSliceToString(d.Find(immediate, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT, unix.NFTA_VERDICT_CHAIN))
	}
	return ""
}
