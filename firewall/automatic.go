package firewall

import (
	"context"
	"log/slog"
)

// automatic is iptables, until Qubes' table comes. Open may have looked in the moment between the flush and the
// load of somebody who sets up the firewall anew; and in a Qubes R4.2, rules made with iptables let nobody in.
type automatic struct {
	Backend
	log   *slog.Logger
	nft   *nftBackend
	final bool // no look any more: it has come, or this kernel cannot have it
}

func (a *automatic) Sync(ctx context.Context, want State, inForce func()) (writes int, err error) {
	if a.final {
		return a.Backend.Sync(ctx, want, inForce)
	}
	qubes, err := a.nft.qubes(ctx)
	if a.final = unsupported(err); !qubes { // an error is one more try away
		return a.Backend.Sync(ctx, want, inForce)
	}
	a.log.Warn("table ip qubes has come, with a chain custom-input: changing over", "from", a.Backend, "to", a.nft)
	// As in open: what is left of the other one leads nowhere that the new one's guard does not allow.
	if writes, err = a.nft.Sync(ctx, want, inForce); err != nil {
		return writes, err
	}
	if err := a.Backend.Remove(ctx); err != nil {
		a.log.Warn("cannot remove rules", "backend", a.Backend, "err", err)
	}
	a.Backend, a.final = a.nft, true
	return writes, nil
}
