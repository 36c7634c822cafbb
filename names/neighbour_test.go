package names

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vifproxy/names/wire"
)

// However much one proxy sends, of whatever kind, a neighbour's questions are answered, and what is dropped is counted.
func TestFloodBesideANeighbour(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	m.open(bank(2))
	neighbour := m.proxy(2)
	took := func() time.Duration {
		var all []time.Duration
		for i := range 200 {
			began := time.Now()
			if addrs, code := neighbour.ask(fmt.Sprintf("n%d.wild.example.", i%20), typeA); len(addrs) != 1 {
				t.Fatalf("the neighbour's question %d: %v, %v", i, addrs, code)
			}
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	alone := took()
	for _, text := range [][]byte{
		question(1, "evil.example.", typeA), question(1, "bank.example.", typeA), []byte("rubbish"), nil,
	} {
		flood := m.proxy(1)
		var over atomic.Bool
		var sent atomic.Int64
		var wait sync.WaitGroup
		wait.Go(func() {
			for !over.Load() {
				for range 100 {
					if _, err := flood.Write(text); err == nil {
						sent.Add(1)
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
		began := time.Now()
		beside := took()
		for sent.Load() < 2*questionBurst {
			time.Sleep(time.Millisecond)
		}
		rate := float64(sent.Load()) / time.Since(began).Seconds()
		over.Store(true)
		wait.Wait()
		t.Logf("a question takes %v alone, and %v beside %.0f of %.20q a second", alone, beside, rate, text)
	}
	if e := m.event(1, wire.TooMany); !strings.Contains(e.Why, "too many") {
		t.Errorf("told %+v", e)
	}
	m.event(1, wire.Owned)
	if m.events(2, wire.TooMany) > 0 {
		t.Error("the neighbour asks too many questions")
	}
}
