package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"

	"vifproxy/firewall"
	"vifproxy/firewall/backend"
	"vifproxy/internal/lab"
	"vifproxy/tinyproxy"
)

// many is how many AppVMs there are where their number may matter.
const many = 250

// write measures what the firewall's Sync takes for one AppVM more or less, among many: as the daemon calls it,
// but not in the daemon, where nobody could see its beginning and end. The floor is the transaction that writes
// the same elements, and nothing else, on an open socket.
func (b *bench) write() (outcome, error) {
	s, err := b.site("firewall", func(*site) error { return nil })
	if err != nil {
		return outcome{}, err
	}
	// Elsewhere: a transaction of somebody else's has Sync read everything again.
	aside, err := b.site("floor", func(*site) error { return nil })
	if err != nil {
		return outcome{}, err
	}
	var bare *bareWrites
	if err := aside.Do(func() (err error) { bare, err = newBareWrites(); return err }); err != nil {
		return outcome{}, err
	}
	defer bare.nft.CloseLasting() //nolint:errcheck // it has served
	var o outcome
	err = s.Do(func() (err error) { // all on one thread: package firewall works where it is called
		config := firewall.Config{ProxyPort: lab.ProxyPort, FirstPort: 61000, LastPort: 64999,
			FirstUID: tinyproxy.FirstUID, LastUID: tinyproxy.LastUID}
		fw, err := backend.Open(b.ctx, b.log, "nftables", config)
		if err != nil {
			return err
		}
		var bindings []firewall.Binding
		for i := range many {
			bindings = append(bindings, firewall.Binding{Vif: fmt.Sprintf("vif%d.0", i+1), Addr: addr(i),
				To: netip.AddrPortFrom(lab.Gateway, uint16(61000+i))})
		}
		sync := func(n int) (float64, error) {
			began := time.Now()
			_, err := fw.Sync(b.ctx, firewall.State{Bindings: bindings[:n]}, func() {})
			return microseconds(time.Since(began)), err
		}
		if _, err := sync(many); err != nil {
			return err
		}
		turn := 0
		floor := func() (float64, error) {
			turn++
			began := time.Now()
			err := bare.write(turn%2 == 1)
			return microseconds(time.Since(began)), err
		}
		o, err = b.alternate("µs", floor, func() (float64, error) { return sync(many - turn%2) })
		return err
	})
	return o, err
}

// bareWrites are the elements of one more AppVM, in sets of the same types as the daemon's.
type bareWrites struct {
	nft      *nftables.Conn
	sets     []*nftables.Set
	elements [][]nftables.SetElement
}

func newBareWrites() (*bareWrites, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	w := &bareWrites{nft: conn}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "floor"})
	from := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)
	to := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	all := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeInetService)

	var name [16]byte
	copy(name[:], "vif9.0")
	ip, port := addr(many).AsSlice(), append(binary.BigEndian.AppendUint16(nil, 64999), 0, 0)
	source := append(name[:], ip...)
	w.sets = []*nftables.Set{
		{Table: table, Name: "ports", KeyType: from, DataType: to, IsMap: true, Concatenation: true},
		{Table: table, Name: "bindings", KeyType: all, Concatenation: true},
		{Table: table, Name: "accepted", KeyType: all, Concatenation: true},
	}
	w.elements = [][]nftables.SetElement{
		{{Key: source, Val: append(lab.Gateway.AsSlice(), port...)}},
		{{Key: append(source[:len(source):len(source)], port...)}},
		{{Key: append(source[:len(source):len(source)], port...)}},
	}
	for _, set := range w.sets {
		if err := conn.AddSet(set, nil); err != nil {
			return nil, err
		}
	}
	return w, conn.Flush()
}

func (w *bareWrites) write(add bool) error {
	change := w.nft.SetDeleteElements
	if add {
		change = w.nft.SetAddElements
	}
	for i, set := range w.sets {
		if err := change(set, w.elements[i]); err != nil {
			return err
		}
	}
	return w.nft.Flush()
}
