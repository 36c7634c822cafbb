package nft

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/firewall"
	"vifproxy/firewall/pins"
	"vifproxy/firewall/ruleset"
	"vifproxy/internal/netlink"
)

// Pins are elements of two sets, and the kernel takes each out when its time is over. A pin that lives gets more time by being taken
// out and put in again in one transaction: adding an element that is there changes its time since Linux 6.12 only (4201f3938914). To
// take out one that is gone fails, and with it the whole transaction. So pins.Board remembers what still lives.

const (
	pinRetry     = 5 * time.Millisecond // between tries while somebody has to load the rules again
	pinPatience  = 2 * time.Second      // for that
	pinsEviction = 10 * time.Second     // between the kernel's looks for pins that have ended
)

// Pin implements firewall.Pinner.
func (n *Backend) Pin(ctx context.Context, wanted []firewall.Pin, lasting time.Duration) error {
	if err := pins.Check(n.cfg, wanted, lasting); err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	return n.pin(ctx, func(b *pins.Board, now time.Duration) pins.Plan { return b.Pin(wanted, lasting, now) })
}

// Unpin implements firewall.Pinner.
func (n *Backend) Unpin(ctx context.Context, unwanted []firewall.Pin) error {
	return n.pin(ctx, func(b *pins.Board, now time.Duration) pins.Plan { return b.Unpin(unwanted, now) })
}

// UnpinAll implements firewall.Pinner.
func (n *Backend) UnpinAll(ctx context.Context, uid uint32) error {
	return n.pin(ctx, func(b *pins.Board, now time.Duration) pins.Plan { return b.UnpinAll(uid, now) })
}

type planner func(b *pins.Board, now time.Duration) pins.Plan

// pin carries out a plan. It begins again if the plan has to wait, if the kernel holds other pins than was thought, and as long
// as the sets are not there: somebody has deleted them, and a Sync is about to load them again.
func (n *Backend) pin(ctx context.Context, plan planner) error {
	deadline := time.Now().Add(pinPatience)
	for {
		wait, err := n.tryToPin(ctx, plan)
		if err == nil && wait == 0 {
			return nil
		}
		again := isDoubt(err) || errors.Is(err, ruleset.ErrBusy)
		if err != nil && (!again || time.Now().After(deadline)) {
			return fmt.Errorf("pins: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(wait, pinRetry)):
		}
	}
}

func (n *Backend) tryToPin(ctx context.Context, plan planner) (wait time.Duration, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pinsUnknown { // the kernel may have what is not remembered any more, so no plan takes it out
		err = n.do(ctx, func() error { _, err := n.restorePins(); return err })
	}
	before := n.pins.Now()
	p := plan(n.pins, before)
	if err == nil && (p.Wait > 0 || p.Empty()) {
		return p.Wait, nil
	}
	if err == nil {
		err = n.do(ctx, func() error { return n.conn.beside(p, unix.NLM_F_EXCL) })
	}
	if err != nil {
		n.pins.Failed(p)
		n.pinsUnknown = true
		return 0, err
	}
	n.pins.Done(p, before, n.pins.Now())
	return 0, nil
}

// isDoubt reports whether an error means that the kernel holds something else than was thought.
func isDoubt(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) }

// beside carries out a plan. What is known of the kernel stays known, unless another program has changed something since. flags are of
// the requests that put pins in. Without NLM_F_EXCL these may change nothing, so the generation is not known then, and the next Sync reads.
func (k *kernel) beside(p pins.Plan, flags uint16) error {
	changes, transact := pinRequests(p, flags), k.Transact
	if flags&unix.NLM_F_EXCL == 0 {
		transact = k.TransactPerhaps
	}
	return ruleset.Undisturbed(func() error {
		if known := k.last.generation; known != 0 && !k.stale {
			err := transact(known, changes)
			if err == nil {
				k.last.generation = ruleset.Following(known)
				k.stale = flags&unix.NLM_F_EXCL == 0
			}
			if !errors.Is(err, ruleset.ErrStale) {
				return err
			}
			k.stale = true // the next Sync reads
		}
		return transact(0, changes)
	})
}

// restorePins makes the kernel hold what is pinned, however it has come about that it does not. It returns how many elements it wrote.
func (n *Backend) restorePins() (writes int, err error) {
	n.pinsUnknown = true
	for range ruleset.Attempts {
		before := n.pins.Now()
		held, err := n.conn.readPins()
		if err != nil {
			return 0, err
		}
		// The kernel leaves some out of its answer if the table grows or shrinks meanwhile (nft_rhash_walk): it is no error if one of
		// these is there.
		p := n.pins.Restore(held, before, n.pins.Now())
		if !p.Empty() {
			err = n.conn.beside(p, 0)
		}
		if isDoubt(err) { // something has ended meanwhile, or somebody else has done something
			if err := n.redial(); err != nil {
				return 0, err
			}
			continue
		}
		n.pinsUnknown = err != nil
		return len(p.Out) + len(p.In), err
	}
	return 0, ruleset.ErrBusy
}

// redial begins a new conversation with the kernel after an error to which more answers are under way.
func (n *Backend) redial() (err error) {
	n.hangUp()
	n.conn, err = n.dial()
	return err
}

// errForAll means that somebody has opened all addresses to all proxies. Only nft can take such an element out again.
var errForAll = errors.New("an element for all keys among the pins")

// readPins returns what is pinned, and for how long.
func (k *kernel) readPins() (held []pins.Held, err error) {
	var d netlink.Decoder
	for _, s := range []*set{pinned.four, pinned.six} {
		err := k.Walk(s.dump, func(o ruleset.Object) error {
			for _, e := range d.All(o.Get(unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
				key := d.Find(e, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE)
				if key == nil {
					return cmp.Or(d.Err(), errForAll)
				}
				left := time.Duration(math.MaxInt64) // of one that does not end
				if ms := d.Find(e, unix.NFTA_SET_ELEM_EXPIRATION); len(ms) == 8 {
					left = time.Duration(binary.BigEndian.Uint64(ms)) * time.Millisecond
				}
				if addr, ok := netip.AddrFromSlice(key[min(uid.size, len(key)):]); ok {
					held = append(held, pins.Held{Pin: firewall.Pin{UID: binary.NativeEndian.Uint32(key), Addr: addr}, Left: left})
				}
			}
			return d.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("read set %s %s: %w", s.table, s.name, err)
		}
	}
	return held, nil
}

// pinRequests returns the messages of a plan; flags are of those that put pins in.
func pinRequests(p pins.Plan, flags uint16) [][]byte {
	of := func(request, flags uint16, s *set, all []firewall.Pin, lasting []time.Duration) [][]byte {
		var mine []int
		for i, pin := range all {
			if pin.Addr.Is4() == (s == pinned.four) {
				mine = append(mine, i)
			}
		}
		return s.lists(request, flags, len(mine), func(i int, one []byte) []byte {
			pin := all[mine[i]]
			one = value(one, unix.NFTA_SET_ELEM_KEY, tuple(uidBytes(pin.UID), addrBytes(pin.Addr)))
			if lasting != nil {
				one = netlink.Append(one, unix.NFTA_SET_ELEM_TIMEOUT, net64(uint64(lasting[mine[i]].Milliseconds()))...)
			}
			return one
		})
	}
	return slices.Concat(
		of(unix.NFT_MSG_DELSETELEM, 0, pinned.four, p.Out, nil), of(unix.NFT_MSG_DELSETELEM, 0, pinned.six, p.Out, nil),
		of(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|flags, pinned.four, p.In, p.Lasting),
		of(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|flags, pinned.six, p.In, p.Lasting))
}
