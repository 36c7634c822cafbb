package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"

	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

// many is how many AppVMs there are where their number may matter.
const many = 250

// write measures what the firewall's Sync takes for one AppVM more or less, among many. The floor is the transaction that
// writes the same elements, and nothing else, on an open socket.
func (b *bench) write() (outcome, error) {
	return b.syncs(func(k *kernel) (outcome, error) {
		add := false
		return b.alternate("µs", func() (float64, error) {
			add = !add
			return k.floor(func(w *bareWrites) error { return w.write(add) })
		}, func() (float64, error) {
			n := many
			if add {
				n--
			}
			done, _, err := k.sync(n)
			return done, err
		})
	})
}

// move measures from the call of Sync until new connections of one AppVM among many go to another port: as when its rules
// change. The floor is the transaction that takes the same elements out and puts others in.
func (b *bench) move() (outcome, error) {
	var whole []float64
	o, err := b.syncs(func(k *kernel) (outcome, error) {
		last := &k.bindings[many-1]
		first, turn := last.To, 0
		return b.byTurns("µs", max(b.Runs, moves), func() (float64, error) {
			return k.floor((*bareWrites).move)
		}, func() (float64, error) {
			turn++
			last.To = netip.AddrPortFrom(first.Addr(), first.Port()+uint16(turn%2))
			done, inForce, err := k.sync(many)
			whole = append(whole, done)
			nap(time.Millisecond)
			return inForce, err
		})
	})
	o.note("until Sync returns: %.0f µs", median(whole))
	return o, err
}

// moves is the least number of moves: one takes no time.
const moves = 200

// kernel is what Sync is measured with: as the daemon calls it, but not in the daemon, where nobody could see its beginning and
// end. It is used on one thread, because package firewall works where it is called.
type kernel struct {
	ctx      context.Context
	backend  firewall.Backend
	bindings []firewall.Binding
	guarded  []uint16
	bare     *bareWrites // elsewhere: a transaction of somebody else's has Sync read everything again
}

// syncs measures with the bindings of many in force.
func (b *bench) syncs(measure func(k *kernel) (outcome, error)) (o outcome, err error) {
	s, err := b.site("firewall", func(*site) error { return nil })
	if err != nil {
		return o, err
	}
	aside, err := b.site("floor", func(*site) error { return nil })
	if err != nil {
		return o, err
	}
	k := &kernel{ctx: b.ctx}
	if err := aside.Do(func() (err error) { k.bare, err = newBareWrites(); return err }); err != nil {
		return o, err
	}
	defer k.bare.close()
	for i := range many {
		port := uint16(61000 + 2*i)
		k.bindings = append(k.bindings, firewall.Binding{Vif: fmt.Sprintf("vif%d.0", i+1), Addr: addr(i),
			To: netip.AddrPortFrom(lab.Gateway, port)})
		k.guarded = append(k.guarded, port, port+1)
	}
	err = s.Do(func() (err error) {
		k.backend, err = backend.Open(b.ctx, b.log, "nftables", firewall.Config{ProxyPort: lab.ProxyPort, FirstPort: 61000,
			LastPort: 64999, FirstUID: tinyproxy.FirstUID, LastUID: tinyproxy.LastUID})
		if err == nil {
			_, _, err = k.sync(many)
		}
		if err == nil {
			o, err = measure(k)
		}
		return err
	})
	return o, err
}

// sync has the kernel hold the first n bindings, and returns after how many µs Sync was done, and after how many they were in
// force.
func (k *kernel) sync(n int) (done, inForce float64, err error) {
	began := time.Now()
	_, err = k.backend.Sync(k.ctx, firewall.State{Bindings: k.bindings[:n], Guarded: k.guarded},
		func() { inForce = microseconds(time.Since(began)) })
	return microseconds(time.Since(began)), inForce, err
}

func (k *kernel) floor(write func(*bareWrites) error) (float64, error) {
	began := time.Now()
	err := write(k.bare)
	return microseconds(time.Since(began)), err
}

// bareWrites are the elements of one more AppVM, in sets of the same types as the daemon's.
type bareWrites struct {
	nft      *nftables.Conn
	sets     []*nftables.Set
	elements [2][][]nftables.SetElement // with one port, and with another
	moved    int                        // which of the two are there
}

func newBareWrites() (*bareWrites, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	w := &bareWrites{nft: conn}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "floor"})
	conn.DelTable(table)
	table = conn.AddTable(table)
	from := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	to := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	all := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetService)
	w.sets = []*nftables.Set{
		{Table: table, Name: "ports", KeyType: from, DataType: to, IsMap: true, Concatenation: true},
		{Table: table, Name: "bindings", KeyType: all, Concatenation: true},
		{Table: table, Name: "accepted", KeyType: all, Concatenation: true},
	}
	var name [16]byte
	copy(name[:], "vif9.0")
	source := slices.Concat(name[:], addr(many).AsSlice())
	for i, number := range []uint16{64998, 64999} {
		port := append(binary.BigEndian.AppendUint16(nil, number), 0, 0)
		w.elements[i] = [][]nftables.SetElement{
			{{Key: source, Val: append(lab.Gateway.AsSlice(), port...)}},
			{{Key: slices.Concat(source, port)}},
			{{Key: slices.Concat(source, port)}},
		}
	}
	for _, set := range w.sets {
		if err := conn.AddSet(set, nil); err != nil {
			return nil, err
		}
	}
	return w, conn.Flush()
}

func (w *bareWrites) close() {
	w.nft.CloseLasting() //nolint:errcheck // it has served
}

func (w *bareWrites) write(add bool) error {
	change := w.nft.SetDeleteElements
	if add {
		change = w.nft.SetAddElements
	}
	return errors.Join(w.change(change, 0), w.nft.Flush())
}

// move replaces the elements by those with the other port, which the first move puts in.
func (w *bareWrites) move() error {
	var err error
	if w.moved != 0 {
		err = w.change(w.nft.SetDeleteElements, w.moved-1)
	}
	w.moved = w.moved%2 + 1
	return errors.Join(err, w.change(w.nft.SetAddElements, w.moved-1), w.nft.Flush())
}

// change puts into a transaction what is done to the elements with one of the ports.
func (w *bareWrites) change(how func(*nftables.Set, []nftables.SetElement) error, port int) error {
	var problems []error
	for i, set := range w.sets {
		problems = append(problems, how(set, w.elements[port][i]))
	}
	return errors.Join(problems...)
}
