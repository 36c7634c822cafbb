package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/nftables"

	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/firewall/switchboard"
	"vifproxy/firewall/switchboard/handover"
	"vifproxy/internal/bench/caller"
	"vifproxy/internal/bench/peers"
	"vifproxy/internal/cgroup"
	"vifproxy/internal/lab"
	"vifproxy/internal/sockdiag"
	"vifproxy/tinyproxy"
)

// many is how many AppVMs there are where their number may matter.
const many = 250

// write measures what the firewall's Sync takes for one AppVM more or less, among many. The floor is the transaction that
// writes the same elements, and nothing else, on an open socket.
func (b *bench) write() (outcome, error) {
	return b.syncs(func(k *kernel) (outcome, error) {
		if k.board != nil {
			k.bare.sets = k.bare.sets[1:] // without nat
		}
		add := false
		return b.alternate("µs", func() (float64, error) {
			add = !add
			return k.floor(func(w *bareWrites) error { return w.write(add) })
		}, func() (float64, error) {
			n := many
			if add {
				n--
			}
			done, _, err := k.sync(b.ctx, n)
			return done, err
		})
	})
}

// move measures from the call of Sync until new connections of one AppVM among many go to another process, as when its rules
// change. The floor is the transaction that would move it by nat: three elements out, three in.
func (b *bench) move() (outcome, error) {
	var whole []float64
	o, err := b.syncs(func(k *kernel) (outcome, error) {
		last, turn := &k.bindings[many-1], 0
		return b.byTurns("µs", max(b.Runs, moves), func() (float64, error) {
			return k.floor((*bareWrites).move)
		}, func() (float64, error) {
			turn++
			last.To, last.Socket = k.proxies[turn%2].Local, k.proxies[turn%2].Cookie
			done, inForce, err := k.sync(b.ctx, many)
			whole = append(whole, done)
			caller.Nap(time.Millisecond)
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
	backend  firewall.Backend
	board    *switchboard.Board // nil if nat leads AppVMs to their proxies
	proxies  [2]sockdiag.Socket // two that listen
	bindings []firewall.Binding // all to the first
	bare     *bareWrites        // elsewhere: a transaction of somebody else's has Sync read everything again
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
	k := &kernel{}
	if err := aside.Do(func() (err error) { k.bare, err = newBareWrites(); return err }); err != nil {
		return o, err
	}
	defer k.bare.close()
	var why string
	err = s.Do(func() error {
		end, err := k.open(b, s)
		if err != nil {
			return err
		}
		defer end()
		if why = "without nat"; k.board == nil {
			why = "by nat"
		}
		o, err = measure(k)
		return err
	})
	o.note("%s", why)
	return o, err
}

// open has the firewall of the daemon, with its switchboard where the kernel has one, and bindings to a tinyproxy.
func (k *kernel) open(b *bench, s *site) (end func(), err error) {
	var ends []func()
	end = func() {
		for _, end := range slices.Backward(ends) {
			end()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	own, err := cgroup.Own()
	if err != nil {
		return end, err
	}
	dir := filepath.Join(own, fmt.Sprintf("vifproxy-bench-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return end, err
	}
	ends = append(ends, func() { os.Remove(dir) })
	group, err := os.Open(dir)
	if err != nil {
		return end, err
	}
	ends = append(ends, func() { group.Close() })

	config := firewall.Config{ProxyPort: lab.ProxyPort, FirstPort: 61000, LastPort: 64999,
		FirstUID: tinyproxy.FirstUID, LastUID: tinyproxy.LastUID, NamesUID: tinyproxy.NamesUID}
	if k.backend, err = backend.Open(b.ctx, b.log, "nftables", config); err != nil {
		return end, err
	}
	program := filepath.Join(filepath.Dir(b.Daemon), "vifproxy-switchboard")
	if kernel, err := handover.Obtain(b.ctx, nil, handover.Options{Program: program, Group: dir}); err == nil {
		ends = append(ends, func() { kernel.Close() })
		if k.board, err = switchboard.Open(kernel, lab.ProxyPort); err != nil {
			return end, err
		}
		ends = append(ends, func() { k.board.Close() })
		if k.backend, err = backend.WithSwitchboard(b.ctx, b.log, k.backend, k.board, config); err != nil {
			return end, err
		}
	}
	for i := range k.proxies {
		at := netip.AddrPortFrom(aside.Addr(), config.FirstPort+uint16(i))
		if k.board != nil {
			if err := k.board.Expect(at); err != nil {
				return end, err
			}
		}
		stop, err := peers.Tinyproxy.Start(b.ctx, s.Lab, peers.Setup{Dir: filepath.Join(s.dir, fmt.Sprint("proxy", i)), Listen: at,
			Client: addr(0), Hosts: []string{open}, Group: group})
		if err != nil {
			return end, err
		}
		ends = append(ends, stop)
		socket, err := sockdiag.Listener(at)
		if err != nil {
			return end, err
		}
		k.proxies[i] = *socket
		if k.board != nil && !k.board.Listens(socket.Cookie) {
			return end, fmt.Errorf("the switchboard does not know who listens at %v", at)
		}
	}
	for i := range many {
		k.bindings = append(k.bindings, firewall.Binding{Vif: fmt.Sprintf("vif%d.0", i+1), Link: int32(i + 1), Addr: addr(i),
			To: k.proxies[0].Local, Socket: k.proxies[0].Cookie})
	}
	_, _, err = k.sync(b.ctx, many)
	return end, err
}

// sync has the kernel hold the first n bindings, and returns after how many µs Sync was done, and after how many they were in
// force.
func (k *kernel) sync(ctx context.Context, n int) (done, inForce float64, err error) {
	began := time.Now()
	_, err = k.backend.Sync(ctx, firewall.State{Bindings: k.bindings[:n], Guarded: []uint16{61000, 61001}},
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
	elements := w.elements[port][len(w.elements[port])-len(w.sets):]
	for i, set := range w.sets {
		problems = append(problems, how(set, elements[i]))
	}
	return errors.Join(problems...)
}
