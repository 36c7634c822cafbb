package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
)

// Backend keeps rules through netlink. It needs no program, so it lives beside the rules of every version of nft, and
// repairs them in well under a millisecond.
type Backend struct {
	log *slog.Logger
	cfg firewall.Config

	conn *kernel // nil until needed and after an error

	// loaded is the print of the structure as it was right after we loaded it; "" if that is not known. The
	// elements of the sets, and that is all that a State says, are no part of it.
	loaded string
	held   firewall.State // what the last Sync that succeeded has written, in order

	// partial is why the last load left out what belongs into Qubes' table; nil if it did not. The next Sync tries again.
	partial error

	unbounded bool // this kernel lacks what bounds on connection tracking take

	refused refusals
}

func (n *Backend) String() string { return "nftables" }

var errOtherElements = errors.New("the kernel has other elements in our sets than it was told to")

func (n *Backend) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	want, invalid := n.cfg.Normal(want)
	if invalid != nil {
		want = n.held // which another program may have undone
		inForce = func() {}
	}
	inForce = once(inForce)
	err = n.do(ctx, func() error {
		writes, err = n.sync(want, inForce)
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil && !n.stands(ctx, want):
		err = fmt.Errorf("%w: %w", firewall.ErrUnfenced, err)
	case err == nil:
		n.held = n.conn.last.held
		inForce()
	}
	return writes, errors.Join(invalid, err)
}

// stands reports whether the fence is there, and lets pass what the last Sync has said, or this one.
func (n *Backend) stands(ctx context.Context, want firewall.State) (stands bool) {
	err := n.do(ctx, func() error {
		now, err := n.conn.read()
		fence := func(s firewall.State) bool { return now.saysFrom(leaveSet, s) }
		stands = err == nil && n.loaded != "" && now.print == n.loaded && (fence(n.held) || fence(want))
		return err
	})
	return err == nil && stands
}

func (n *Backend) sync(want firewall.State, inForce func()) (writes int, err error) {
	if n.partial != nil {
		n.loaded = ""
	}
	if n.loaded != "" && n.conn.last.known && n.conn.last.held.Equal(want) {
		inForce() // for all we know; what follows makes sure
	}
	for range ruleset.Attempts {
		// A state that is known to differ is written without a look: the kernel refuses if what is known has
		// passed.
		now := n.conn.last
		if !now.known || now.held.Equal(want) {
			if now, err = n.conn.read(); err != nil {
				return writes, err
			}
		}
		if n.loaded != "" && now.print == n.loaded {
			changed, err := n.conn.update(want, inForce)
			if errors.Is(err, ruleset.ErrStale) {
				n.conn.last = snapshot{}
				continue
			}
			return writes + changed, err
		}
		if n.loaded != "" {
			gone, added := changes(n.loaded, now.print)
			n.log.Warn("firewall rules were changed by another program: loading them again", "gone", gone, "new", added)
		}
		n.loaded = ""
		err := n.load(now, want)
		if errors.Is(err, ruleset.ErrStale) {
			n.conn.last = snapshot{}
			continue
		}
		if err != nil {
			return writes, err
		}
		writes++

		// What is there now is what we loaded only if nobody else's transaction came in between: each
		// adds one to the generation (nf_tables_commit in the kernel's net/netfilter/nf_tables_api.c).
		after, err := n.conn.read()
		if err != nil {
			return writes, err
		}
		if after.generation == ruleset.Following(now.generation) {
			n.loaded = after.print
			if n.partial != nil {
				return writes, n.partial
			}
			if !after.saysFrom(0, want) {
				return writes, errOtherElements
			}
			n.conn.last.hold(want)
			return writes, nil
		}
	}
	return writes, ruleset.ErrBusy
}

// load replaces everything of ours by the skeleton with what want says in one transaction. If anything in
// before is no longer true, the transaction fails as a whole.
func (n *Backend) load(before snapshot, want firewall.State) error {
	refused, err := n.conn.refused()
	if err != nil {
		return err
	}
	n.refused.add(refused)
	// The kernel may lack what bounds take, and a foreign rule may refer to what we replace in Qubes' table. Neither keeps
	// the guard and the fence from standing.
	n.partial = nil
	var first error
	for _, try := range []struct{ bounds, qubes bool }{{true, true}, {false, true}, {true, false}, {false, false}} {
		if try.bounds && n.unbounded || try.qubes && !before.userChain {
			continue
		}
		var b *bounds
		if try.bounds {
			b = boundsOf(TrackedMax())
		}
		if err = n.conn.Transact(before.generation, n.replaceAll(before, want, b, try.qubes)); err == nil {
			if !try.bounds && !n.unbounded {
				n.unbounded = true
				n.log.Warn("one AppVM can fill connection tracking for all: this kernel does not bound it "+
					"(CONFIG_NF_CONNTRACK_TIMEOUT, CONFIG_NFT_CONNLIMIT, CONFIG_NFT_LIMIT)", "err", first)
			}
			if !try.qubes && before.userChain {
				n.partial = fmt.Errorf("load rules into table ip qubes: %w", first)
			}
			n.refused.last = nil
			return nil
		}
		if first == nil {
			first = err
		}
		if errors.Is(err, ruleset.ErrStale) {
			break
		}
		n.hangUp() // more answers to what failed are under way
		if n.conn, err = dial(); err != nil {
			return err
		}
	}
	return fmt.Errorf("load rules: %w", cmp.Or(err, first))
}

// Refused implements Backend.
func (n *Backend) Refused(ctx context.Context) (map[uint32]uint64, error) {
	err := n.do(ctx, func() error {
		refused, err := n.conn.refused()
		if err == nil {
			n.refused.add(refused)
		}
		return err
	})
	return maps.Clone(n.refused.total), err
}

// Remove implements Backend.
func (n *Backend) Remove(ctx context.Context) error {
	n.loaded = ""
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
	err = n.do(ctx, func() error {
		now, err := n.conn.read()
		is = now.userChain
		return err
	})
	return is, err
}

// New returns a backend that has read and written nothing yet.
func New(log *slog.Logger, cfg firewall.Config) *Backend { return &Backend{log: log, cfg: cfg} }

// Converse calls f with the connection to the kernel, as do does.
func (n *Backend) Converse(ctx context.Context, f func(*ruleset.Conn) error) error {
	return n.do(ctx, func() error { return f(n.conn.Conn) })
}

// TransactBeside makes changes to what is none of Sync's business. What Sync knows stays known.
func (n *Backend) TransactBeside(ctx context.Context, generation uint32, changes [][]byte) error {
	return n.do(ctx, func() error {
		err := n.conn.Transact(generation, changes)
		if last := &n.conn.last; err == nil && last.generation == generation {
			last.generation = ruleset.Following(generation)
		}
		return err
	})
}

// Use has the backend speak to the kernel by this connection, until an error.
func (n *Backend) Use(conn *ruleset.Conn) { n.conn = &kernel{Conn: conn} }

// do runs f with an open connection. After an error, answers to it may still be under way, so the connection
// is given up and the next call begins with a new one.
func (n *Backend) do(ctx context.Context, f func() error) (err error) {
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

// Close ends the connection to the kernel. What is in the kernel stays.
func (n *Backend) Close() { n.hangUp() }

func (n *Backend) hangUp() {
	if n.conn != nil {
		_ = n.conn.Close()
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

// once is f for the first call, and nothing after that: a Sync may take more than one attempt.
func once(f func()) func() {
	return func() {
		f()
		f = func() {}
	}
}
