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
	attached         func() error // why the programs of the board do nothing; nil if they are attached
	log              *slog.Logger
	last             []firewall.Binding // what the last Sync was given, if it succeeded
}

// New returns a backend with an empty board.
func New(rules firewall.Backend, board *Board, cfg firewall.Config, log *slog.Logger) *Backend {
	return &Backend{Backend: rules, board: board, attached: board.maps.Attached, cfg: cfg, log: log}
}

// Sync implements firewall.Backend. A binding that moves to another socket is in force with one write to the board, whatever else there
// is to do: the filter lets its AppVM in already. This write comes before the rest of want is looked at. If somebody has detached the
// programs, the error is firewall.ErrShut.
func (b *Backend) Sync(ctx context.Context, want firewall.State, inForce func()) (writes int, err error) {
	moved := b.moved(want.Bindings)
	for _, w := range moved {
		if err := b.put(w); err != nil {
			return writes, err
		}
		writes++
	}
	if len(moved) > 0 {
		inForce()
		inForce = func() {}
	}
	b.warn(moved)
	b.last = b.last[:0]
	normal, err := b.cfg.Normal(want)
	if err != nil {
		return b.Backend.Sync(ctx, want, inForce) // which repairs what it can, and says the same
	}
	normal.Shared = b.board.port
	held, err := b.board.bound()
	if err != nil {
		return writes, err
	}
	bound, came, err := b.bind(normal.Bindings, held)
	writes += came
	if err != nil {
		return writes, err
	}
	filtered, err := b.Backend.Sync(ctx, normal, inForce)
	writes += filtered
	if err != nil {
		return writes, err
	}
	if err := b.unbind(held, bound); err != nil {
		return writes, fmt.Errorf("%w: %w", firewall.ErrShut, err)
	}
	b.last = append(b.last, want.Bindings...)
	if err := b.attached(); err != nil {
		return writes, fmt.Errorf("%w: restart vifproxyd: %w", firewall.ErrShut, err)
	}
	return writes, nil
}

// moved returns the bindings that lead to another socket than at the last Sync, if nothing else about bindings has changed, and if
// they are possible; otherwise none.
func (b *Backend) moved(all []firewall.Binding) (moved []firewall.Binding) {
	if len(all) != len(b.last) {
		return nil
	}
	for i := range all {
		w, was := &all[i], &b.last[i]
		if w.Link != was.Link || w.Addr != was.Addr || w.Vif != was.Vif || w.Shown != was.Shown || w.Local() && w.To != was.To {
			return nil
		}
		if w.Socket != was.Socket && !w.Local() {
			if b.cfg.Check(*w) != nil {
				return nil
			}
			moved = append(moved, *w)
		}
	}
	return moved
}

// bind puts bindings on the board that it does not hold, and sets the port right. It returns all that belong there, and how much it has
// written.
func (b *Backend) bind(all []firewall.Binding, held map[key]uint64) (bound map[key]bool, writes int, err error) {
	switch port, err := b.board.heardPort(); {
	case err != nil:
		return nil, 0, fmt.Errorf("switchboard: read the port: %w", err)
	case port != b.board.port:
		if err := b.board.setPort(b.board.port); err != nil {
			return nil, 0, err
		}
		writes++
	}
	bound = make(map[key]bool, len(all))
	var came []firewall.Binding
	for _, w := range all {
		if w.Local() {
			continue
		}
		k := keyOf(w.Link, w.Addr)
		bound[k] = true
		if socket, there := held[k]; there && socket == w.Socket {
			continue
		}
		if err := b.put(w); err != nil {
			return nil, writes, err
		}
		came = append(came, w)
		writes++
	}
	b.warn(came)
	return bound, writes, nil
}

func (b *Backend) put(w firewall.Binding) error {
	if err := b.board.bind(keyOf(w.Link, w.Addr), w.Socket); err != nil {
		return fmt.Errorf("switchboard: binding of %s: %w", w, err)
	}
	return nil
}

// warn tells of bindings that lead nowhere.
func (b *Backend) warn(all []firewall.Binding) {
	for _, w := range all {
		if !b.board.Listens(w.Socket) { // it may just have ended
			b.log.Warn("the switchboard does not know the socket of a proxy: its AppVM cannot connect", "vif", w.Vif, "ip", w.Addr, "to", w.To)
		}
	}
}

// unbind takes off the board what it held and what does not belong there.
func (b *Backend) unbind(held map[key]uint64, bound map[key]bool) (err error) {
	for k := range held {
		if bound[k] {
			continue
		}
		if e := b.board.unbind(k); e != nil {
			err = errors.Join(err, fmt.Errorf("switchboard: take a binding off: %w", e))
		}
	}
	return err
}

// Remove implements firewall.Backend. The programs stay attached until nothing has them open any more.
func (b *Backend) Remove(ctx context.Context) error {
	b.last = nil
	err := b.Backend.Remove(ctx)
	held, failed := b.board.bound()
	return errors.Join(err, failed, b.unbind(held, nil))
}
