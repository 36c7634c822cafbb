package names

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/names/wire"
)

// While gates open and close in random order, and proxies ask all the time: when the daemon hears that a gate is closed, no address of a
// name is pinned that no other gate permits. What an open gate permits is answered, or refused at most while another gate closes.
func TestPinsFollowGates(t *testing.T) {
	t.Parallel()
	const uids, names, rounds = 3, 8, 60
	address := func(uid uint32, name int) netip.Addr { return netip.AddrFrom4([4]byte{93, 184, byte(uid), byte(name)}) }
	server := serve(t, func(q dnsmessage.Question) *reply {
		var name int
		var uid uint32
		if _, err := fmt.Sscanf(q.Name.String(), "n%d.u%d.example.", &name, &uid); err != nil {
			return &reply{code: dnsmessage.RCodeNameError}
		}
		return a(q, 300, address(uid, name).String())
	})
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	var over atomic.Bool
	var askers sync.WaitGroup
	answered, refused := 0, 0
	var mu sync.Mutex
	for uid := range uint32(uids) {
		for range 2 {
			p := m.proxy(uid)
			m.open(wire.Gate{UID: uid, Lines: []string{fmt.Sprintf(`^n0\.u%d\.example$`, uid)}}) // stays, so that each question has an answer
			askers.Go(func() {
				r := rand.New(rand.NewPCG(20, uint64(uid)))
				for !over.Load() {
					addrs, code := p.ask(fmt.Sprintf("n%d.u%d.example.", r.IntN(names), uid), typeA)
					mu.Lock()
					answered += len(addrs)
					refused += set(code == dnsmessage.RCodeRefused)
					mu.Unlock()
				}
			})
		}
	}
	r := rand.New(rand.NewPCG(20, 17))
	type open struct {
		id    int64
		names map[int]bool
	}
	gates := map[uint32][]open{}
	for round := range rounds {
		uid := uint32(r.IntN(uids))
		g := open{names: map[int]bool{}}
		var lines []string
		for range 1 + r.IntN(4) {
			name := r.IntN(names)
			g.names[name] = true
			lines = append(lines, fmt.Sprintf(`^n%d\.u%d\.example$`, name, uid))
		}
		g.id = m.open(wire.Gate{UID: uid, Lines: lines})
		gates[uid] = append(gates[uid], g)
		for name := range g.names { // it is in force
			if addrs, code := m.proxy(uid).ask(fmt.Sprintf("n%d.u%d.example.", name, uid), typeA); len(addrs) != 1 {
				t.Fatalf("round %d: a permitted name is answered with %v", round, code)
			}
		}
		if len(gates[uid]) < 1+r.IntN(3) {
			continue
		}
		i := r.IntN(len(gates[uid]))
		closing := gates[uid][i]
		gates[uid] = append(gates[uid][:i:i], gates[uid][i+1:]...)
		permitted := map[netip.Addr]bool{address(uid, 0): true}
		for _, other := range gates[uid] {
			for name := range other.names {
				permitted[address(uid, name)] = true
			}
		}
		m.mu.Lock()
		m.closed = func(id int64) {
			if id != closing.id {
				return
			}
			for addr, by := range m.pinned {
				if by == uid && !permitted[addr] {
					t.Errorf("round %d: %v is pinned for %d, and no gate permits it", round, addr, uid)
				}
			}
		}
		m.mu.Unlock()
		m.close(closing.id)
	}
	over.Store(true)
	askers.Wait()
	t.Logf("%d questions were answered, %d refused", answered, refused)
	if answered == 0 || refused == 0 {
		t.Error("that tries nothing")
	}
}
