// Package nft keeps our own tables in the kernel's nftables equal to a State. skeleton.go and fence.go have the chains and rules, which are always
// the same, in the words of words.go; sets.go has the sets, which hold all that a State says. sync.go repairs and writes,
// snapshot.go and listing.go read what the kernel holds.
//
// Concurrency: a Backend may be used by several goroutines, and does one thing after the other. Watch runs in a goroutine of its own, in the network of its thread.
package nft

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"

	"vifproxy/firewall"
	"vifproxy/firewall/pins"
	"vifproxy/firewall/ruleset"
)

// Backend keeps the rules through netlink. It needs no program, so it works beside the rules of every version of nft, and
// repairs ours in well under a millisecond.
type Backend struct {
	mu  sync.Mutex // for all that follows
	log *slog.Logger
	cfg firewall.Config

	dial func() (*kernel, error)
	conn *kernel // nil until needed and after an error

	// loaded is everything but the elements of sets, as it was right after the last load; nil if that is not known.
	loaded *[len(listings)]*listed
	held   firewall.State // what the last successful Sync has written, normal

	// partial is the reason why the last load left out what belongs into Qubes' table; nil if it did not. The next Sync tries again.
	partial error

	tried     bool // the last load has shown what this kernel lacks, which the next two fields say
	unbounded bool // this kernel lacks what the bounds on connection tracking need
	zoneless  bool // it has no zones of connection tracking

	refused refusals
	pins    *pins.Board

	pinsUnknown bool // the kernel may hold others
}

func (n *Backend) String() string { return "nftables" }

// Refused implements Backend.
func (n *Backend) Refused(ctx context.Context) (map[uint32]uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.do(ctx, func() error {
		refused, err := n.conn.countRefused()
		if err == nil {
			n.refused.add(refused)
		}
		return err
	})
	return maps.Clone(n.refused.total), err
}

// Remove implements Backend.
func (n *Backend) Remove(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.loaded, n.pins = nil, pins.New()
	err := n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		if err := n.conn.Transact(0, append(removeTables(now), removeRules(now)...)); err != nil {
			return err
		}
		// The empty chain and set come after, on their own: should a foreign rule refer to them they must
		// stay ("device or resource busy"), and that must not keep the rest from going.
		return n.conn.Transact(0, removeEmpty(now))
	})
	n.hangUp()
	return err
}

// Qubes reports whether this is a Qubes R4.2 or later, with a chain for users' rules in Qubes' table.
func (n *Backend) Qubes(ctx context.Context) (is bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	err = n.do(ctx, func() error {
		now, err := n.conn.read()
		if err != nil {
			return err
		}
		is = now.hasChain(qubesTable, userChain)
		return nil
	})
	return is, err
}

// New returns a backend that has read and written nothing yet.
func New(log *slog.Logger, cfg firewall.Config) *Backend {
	return &Backend{log: log, cfg: cfg, dial: dial, pins: pins.New()}
}

// UseSwitchboard makes the next Sync load the rules for a switchboard.
func (n *Backend) UseSwitchboard() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg.Switchboard = true
	n.loaded = nil
}

// Converse calls f with an open connection to the kernel. After an error it gives up the connection.
func (n *Backend) Converse(ctx context.Context, f func(*ruleset.Conn) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.do(ctx, func() error { return f(n.conn.Conn) })
}

// TransactBeside makes changes to things that Sync does not keep, and does not make Sync forget what it knows.
func (n *Backend) TransactBeside(ctx context.Context, generation uint32, changes [][]byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.do(ctx, func() error {
		err := n.conn.Transact(generation, changes)
		if last := &n.conn.last; err == nil && last.generation == generation {
			last.generation = ruleset.Following(generation)
		}
		return err
	})
}

// Use makes this the connection to the kernel, until an error.
func (n *Backend) Use(conn *ruleset.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conn = &kernel{Conn: conn}
}

// do runs f with an open connection. After an error, answers to it may still be under way, so the connection
// is given up and the next call begins with a new one.
func (n *Backend) do(ctx context.Context, f func() error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if n.conn == nil {
		if n.conn, err = n.dial(); err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
	}
	if err = f(); err != nil {
		n.hangUp()
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Close ends the connection to the kernel, and leaves the rules as they are.
func (n *Backend) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hangUp()
}

func (n *Backend) hangUp() {
	if n.conn != nil {
		_ = n.conn.Close()
		n.conn = nil
	}
}
