package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nftBackend loads the skeleton with the program nft, which takes some milliseconds, and changes elements
// through netlink, which takes some microseconds.
type nftBackend struct {
	log  *slog.Logger
	cfg  Config
	tool string // path of nft; "" if it is not installed, then only Remove works

	conn *ruleset // nil until needed and after an error

	// loaded is the print of the structure as it was right after we loaded it; "" if that is not known. The
	// elements of the sets, and that is all that a State says, are no part of it.
	loaded string

	refused refusals
}

func (n *nftBackend) String() string { return "nftables" }

// attempts bounds how often one call starts over because other programs keep changing the ruleset meanwhile.
// Qubes does at every attach of a vif, in a few transactions.
const attempts = 5

var errOtherText = errors.New("the program nft has put other elements into our sets than it was told to")

func (n *nftBackend) Sync(ctx context.Context, want State, inForce func()) (writes int, err error) {
	if want.Bindings, err = n.cfg.inOrder(want.Bindings); err != nil {
		return 0, err
	}
	if want.Fence, err = n.cfg.normal(want.Fence); err != nil {
		return 0, err
	}
	// The kernel makes the others' counters when they are needed.
	want.Fence.Proxies = slices.DeleteFunc(want.Fence.Proxies, func(p Proxy) bool { return len(p.Holes) == 0 })
	inForce = once(inForce)
	err = n.do(ctx, func() error {
		if n.loaded != "" && n.conn.last.known && n.conn.last.held.Equal(want) {
			inForce() // for all we know; what follows makes sure
		}
		for range attempts {
			// A state that is known to differ is written without a look: the kernel refuses if what is known has
			// passed.
			now := n.conn.last
			if !now.known || now.held.Equal(want) {
				var err error
				if now, err = n.conn.read(); err != nil {
					return err
				}
			}
			if n.loaded != "" && now.print == n.loaded {
				changed, err := n.conn.update(want, inForce)
				if errors.Is(err, errOutrun) {
					n.conn.last = snapshot{}
					continue
				}
				writes += changed
				return err
			}
			if n.loaded != "" {
				gone, added := changes(n.loaded, now.print)
				n.log.Warn("firewall rules were changed by another program: loading them again",
					"gone", gone, "new", added)
			}
			n.loaded = ""
			if err := n.load(ctx, now, want); err != nil {
				after, readErr := n.conn.read()
				if readErr == nil && after.generation != now.generation {
					continue // the text was for what somebody else has changed since
				}
				return err
			}
			writes++

			// What is there now is what we loaded only if nobody else's transaction came in between: each
			// adds one to the generation (nf_tables_commit in the kernel's net/netfilter/nf_tables_api.c).
			after, err := n.conn.read()
			if err != nil {
				return err
			}
			if after.generation == following(now.generation) {
				if !after.says(want) {
					return errOtherText
				}
				if after.unturned {
					n.log.Warn("nft is older than 1.0.6: what one AppVM's proxy alone may reach (#: egress) stays closed")
				}
				n.loaded = after.print
				n.conn.last.hold(want)
				return nil
			}
		}
		return errBusy
	})
	if err == nil {
		inForce()
	}
	return writes, err
}

// load replaces everything of ours by the skeleton with what want says in one transaction. If anything in
// before is no longer true, the transaction fails as a whole.
func (n *nftBackend) load(ctx context.Context, before snapshot, want State) error {
	refused, err := n.conn.refused()
	if err != nil {
		return err
	}
	n.refused.add(refused)
	if err := load(ctx, skeleton(n.cfg, before, want), n.tool, "-f", "-"); err != nil {
		return err
	}
	n.refused.last = nil
	return nil
}

// Refused implements Backend.
func (n *nftBackend) Refused(ctx context.Context) (map[uint32]uint64, error) {
	err := n.do(ctx, func() error {
		refused, err := n.conn.refused()
		if err == nil {
			n.refused.add(refused)
		}
		return err
	})
	return maps.Clone(n.refused.total), err
}

// Remove needs no program, so that it can clean up where nft is not installed.
func (n *nftBackend) Remove(ctx context.Context) error {
	n.loaded = ""
	err := n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		del := func(request uint16, family byte, attrs []byte) []byte {
			return message(request, family, 0, attrs)
		}
		var all [][]byte
		if now.ownTable {
			all = append(all, del(unix.NFT_MSG_DELTABLE, unix.NFPROTO_IPV4, name(nil, unix.NFTA_TABLE_NAME, "vifproxy")))
		}
		if now.fenceTable {
			all = append(all, del(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, name(nil, unix.NFTA_TABLE_NAME, "vifproxy")))
		}
		rules := func(chain string) []byte { // of that chain in Qubes' table
			return name(name(nil, unix.NFTA_RULE_TABLE, "qubes"), unix.NFTA_RULE_CHAIN, chain)
		}
		for _, handle := range now.jumps {
			all = append(all, del(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, attribute(rules("custom-input"),
				unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, handle)...)))
		}
		if now.acceptChain {
			all = append(all, del(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, rules("vifproxy-input")))
		}
		if err := n.conn.transact(0, all); err != nil {
			return err
		}

		// The empty chain and set come after, on their own: should a foreign rule refer to them they must
		// stay ("device or resource busy"), and that must not keep the rest from going.
		all = nil
		if now.acceptChain {
			all = append(all, del(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_IPV4,
				name(name(nil, unix.NFTA_CHAIN_TABLE, "qubes"), unix.NFTA_CHAIN_NAME, "vifproxy-input")))
		}
		if now.acceptSet {
			all = append(all, del(unix.NFT_MSG_DELSET, unix.NFPROTO_IPV4,
				name(name(nil, unix.NFTA_SET_TABLE, "qubes"), unix.NFTA_SET_NAME, "vifproxy")))
		}
		return n.conn.transact(0, all)
	})
	n.hangUp()
	return err
}

// qubes tells whether this is a Qubes R4.2 or later, with a chain for users' rules in Qubes' table.
func (n *nftBackend) qubes(ctx context.Context) (is bool, err error) {
	err = n.do(ctx, func() error {
		now, err := n.conn.read()
		is = now.userChain
		return err
	})
	return is, err
}

// do runs f with an open connection. After an error, answers to it may still be under way, so the connection
// is given up and the next call begins with a new one.
func (n *nftBackend) do(ctx context.Context, f func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.conn == nil {
		if n.conn, err = dial(); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	if err = f(); err != nil {
		n.hangUp()
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

func (n *nftBackend) hangUp() {
	if n.conn != nil {
		_ = n.conn.socket.Close()
		n.conn = nil
	}
}

// changes compares two prints line by line, for a log.
func changes(before, after string) (gone, added []string) {
	b, a := strings.Split(before, "\n"), strings.Split(after, "\n")
	in := func(lines []string) func(string) bool {
		return func(line string) bool { return slices.Contains(lines, line) }
	}
	return slices.DeleteFunc(slices.Clone(b), in(a)), slices.DeleteFunc(slices.Clone(a), in(b))
}
