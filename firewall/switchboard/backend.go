package switchboard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"vifproxy/firewall"
)

// A Backend keeps the board equal to the bindings of a State, and the packet filter equal to the rest.
//
// For an AppVM that comes, the board leads to its proxy before the filter lets it in; for one that goes, the filter shuts it out
// before the board forgets it. So a packet that passes the filter always finds its binding.
type Backend struct {
	firewall.Backend // of the packet filter
	board            *Board
	cfg              firewall.Config
	log              *slog.Logger
	held             map[key]uint64 // what the board holds
}

// New returns a backend with an empty board.
func New(rules firewall.Backend, board *Board, cfg firewall.Config, log *slog.Logger) *Backend {
	return &Backend{Backend: rules, board: board, cfg: cfg, log: log, held: make(map[key]uint64)}
}

// Sync implements firewall.Backend. If nothing but sockets has changed, it writes to the board alone.
func (b *Backend) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	normal, err := b.cfg.Normal(want)
	if err != nil {
		return b.Backend.Sync(ctx, want, inForce) // which repairs what it can, and says the same
	}
	normal.Shared = b.board.port
	bound, moved, err := b.bind(normal.Bindings)
	if err != nil {
		return moved, err
	}
	writes, err = b.Backend.Sync(ctx, normal, inForce)
	if err == nil {
		err = b.unbind(bound)
	}
	return moved + writes, err
}

// bind puts bindings on the board that are new or lead to another socket. It returns all that belong there.
func (b *Backend) bind(all []firewall.Binding) (bound map[key]bool, moved int, err error) {
	bound = make(map[key]bool, len(all))
	for _, w := range all {
		if w.Local() {
			continue
		}
		k := keyOf(w.Link, w.Addr)
		bound[k] = true
		if socket, there := b.held[k]; there && socket == w.Socket {
			continue
		}
		if err := b.board.bind(k, w.Socket); err != nil {
			return nil, moved, fmt.Errorf("switchboard: binding of %s: %w", w, err)
		}
		b.held[k] = w.Socket
		moved++
		if !b.board.Listens(w.Socket) { // it may just have ended
			b.log.Warn("the switchboard does not know the socket of a proxy: its AppVM cannot connect", "vif", w.Vif, "ip", w.Addr, "to", w.To)
		}
	}
	return bound, moved, nil
}

// unbind takes off the board what does not belong there.
func (b *Backend) unbind(bound map[key]bool) (err error) {
	for k := range b.held {
		if bound[k] {
			continue
		}
		if e := b.board.unbind(k); e != nil {
			err = errors.Join(err, fmt.Errorf("switchboard: %w", e))
			continue
		}
		delete(b.held, k)
	}
	return err
}

// Remove implements firewall.Backend. The programs stay attached until nothing has them open any more.
func (b *Backend) Remove(ctx context.Context) error {
	return errors.Join(b.Backend.Remove(ctx), b.unbind(nil))
}
