package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"vifproxy/firewall"
	"vifproxy/firewall/ruleset"
)

var errOtherElements = errors.New("the kernel has other elements in our sets than it was told to")

// Sync implements Backend.
func (n *Backend) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	want, invalid := n.cfg.Normal(want)
	if invalid != nil {
		want = n.held // another program may have undone it
		inForce = func() {}
	}
	inForce = once(inForce)
	err = n.do(ctx, func() error {
		writes, err = n.sync(want, inForce)
		if err == nil && (n.conn.reread || n.pinsUnknown) {
			inForce()
			var restored int
			restored, err = n.keepPins(want)
			writes += restored
		}
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil && !n.stands(ctx, want):
		err = fmt.Errorf("%w: %w", firewall.ErrUnfenced, err)
	case err == nil:
		// The connection may be a new one, which remembers nothing, and the caller may change its own bindings.
		bindings := append(n.held.Bindings[:0], want.Bindings...)
		n.held = want
		n.held.Bindings = bindings
		inForce()
	}
	return writes, errors.Join(invalid, err)
}

// keepPins makes the kernel hold what is pinned, after somebody may have changed that.
func (n *Backend) keepPins(want firewall.State) (writes int, err error) {
	writes, err = n.restorePins()
	if errors.Is(err, errForAll) {
		n.log.Warn("another program has opened all addresses to proxies: loading the firewall rules again")
		n.loaded = nil
		if err = n.redial(); err == nil {
			writes, err = n.sync(want, func() {})
		}
	}
	if err == nil {
		n.conn.reread = false
	}
	return writes, err
}

// stands reports whether the fence is there, and lets pass what the last Sync has said, or what this one says.
func (n *Backend) stands(ctx context.Context, want firewall.State) (stands bool) {
	err := n.do(ctx, func() error {
		now, err := n.conn.read()
		stands = err == nil && n.loaded != nil && now.stands(n.loaded) && (now.matches(fenceSets, n.held) || now.matches(fenceSets, want))
		return err
	})
	return err == nil && stands
}

func (n *Backend) sync(want firewall.State, inForce func()) (writes int, err error) {
	if n.partial != nil {
		n.loaded = nil
	}
	if n.loaded != nil && n.conn.last.known && n.conn.last.held.Equal(want) {
		inForce() // as far as is known; the look below makes sure
	}
	for range ruleset.Attempts {
		// A state that is known to differ is written without a look: the kernel refuses if something has changed
		// since.
		now := n.conn.last
		if n.conn.stale || !now.known || now.held.Equal(want) {
			if now, err = n.conn.read(); err != nil {
				return writes, err
			}
		}
		if n.loaded != nil && now.stands(n.loaded) {
			changed, err := n.conn.update(want, inForce)
			if errors.Is(err, ruleset.ErrStale) {
				n.conn.stale = true
				continue
			}
			return writes + changed, err
		}
		if n.loaded != nil {
			gone, added := now.changes(n.loaded)
			n.log.Warn("firewall rules were changed by another program: loading them again", "gone", gone, "new", added)
		}
		n.loaded = nil
		err := n.load(now, want)
		if errors.Is(err, ruleset.ErrStale) {
			n.conn.stale = true
			continue
		}
		if err != nil {
			return writes, err
		}
		writes++

		// The kernel holds what we loaded only if no other transaction came in between: each adds one to the
		// generation (nf_tables_commit in the kernel's net/netfilter/nf_tables_api.c).
		after, err := n.conn.read()
		if err != nil {
			return writes, err
		}
		if after.generation == ruleset.Following(now.generation) {
			n.loaded = &after.things
			if n.partial != nil {
				return writes, n.partial
			}
			if !after.matches(ourSets, want) {
				return writes, fmt.Errorf("%w: %s", errOtherElements, after.otherThan(want))
			}
			n.conn.last.remember(want)
			return writes, nil
		}
	}
	return writes, ruleset.ErrBusy
}

// load replaces everything of ours by the skeleton with what want says, in one transaction. The transaction fails as a whole if
// anything in before is no longer true.
func (n *Backend) load(before snapshot, want firewall.State) error {
	refused, err := n.conn.countRefused()
	if err != nil {
		return err
	}
	n.refused.add(refused)
	n.partial = nil
	var first error
	for _, try := range n.tries(before) {
		now := n.pins.Now()
		if err = n.conn.Transact(before.generation, n.replaceAll(before, want, try, now)); err == nil {
			n.pins.Begun(now)
			n.pinsUnknown = false
			n.loadedWith(try, first)
			if !try.qubes && before.hasChain(qubesTable, userChain) {
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
		if err := n.redial(); err != nil {
			return err
		}
		// A table that another program owns goes with that program, and the generation stays (nft_rcv_nl_event): read again what to replace.
		if now, err := n.conn.read(); err == nil && !now.stands(&before.things) {
			return ruleset.ErrStale
		}
	}
	n.tried = false
	return fmt.Errorf("load rules: %w", cmp.Or(err, first))
}

// extras are those parts of the skeleton that one may have to do without. The kernel may lack what bounds and zones need, and a foreign
// rule may refer to what we replace in Qubes' table. The guard and the fence stand in any case.
type extras struct{ bounds, zones, qubes bool }

// tries returns what to load, best first. A fence that is away is open until one of them succeeds, so what this kernel lacks is not tried out
// again.
func (n *Backend) tries(before snapshot) (all []extras) {
	for _, qubes := range []bool{true, false} {
		for _, p := range []extras{{bounds: true, zones: true}, {bounds: true}, {zones: true}, {}} {
			p.qubes = qubes
			lacks := p.bounds && n.unbounded || p.zones && n.zoneless
			spares := n.tried && (!p.bounds && !n.unbounded || !p.zones && !n.zoneless)
			if !(lacks || spares || qubes && !before.hasChain(qubesTable, userChain)) {
				all = append(all, p)
			}
		}
	}
	return all
}

// loadedWith remembers what this kernel lacks, and has it logged once. first is the error of the load with all parts.
func (n *Backend) loadedWith(p extras, first error) {
	n.tried = true
	if !p.bounds && !n.unbounded {
		n.unbounded = true
		n.log.Warn("one AppVM can fill connection tracking for all: this kernel does not bound it "+
			"(CONFIG_NF_CONNTRACK_TIMEOUT, CONFIG_NFT_CONNLIMIT, CONFIG_NFT_LIMIT)", "err", first)
	}
	if !p.zones && !n.zoneless {
		n.zoneless = true
		n.log.Warn("where many AppVMs ask for names at once, some questions take 5 s more: this kernel does not keep them apart "+
			"(CONFIG_NF_CONNTRACK_ZONES)", "err", first)
	}
}

// once returns a function that calls f at its first call and does nothing after that: a Sync may take more than one attempt.
func once(f func()) func() {
	return func() {
		f()
		f = func() {}
	}
}
