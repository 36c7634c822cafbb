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

	"golang.org/x/net/dns/dnsmessage"

	"vifproxy/internal/await"
	"vifproxy/names/wire"
)

// asks asks, and reports whether an answer with an address has come when the C library asks again.
func (p *proxy) asks(text []byte) bool {
	p.Helper()
	if _, err := p.Write(text); err != nil {
		p.Fatal(err)
	}
	_ = p.SetReadDeadline(time.Now().Add(5 * time.Second))
	var m dnsmessage.Message
	buf := make([]byte, replyMax)
	n, err := p.Read(buf)
	return err == nil && m.Unpack(buf[:n]) == nil && len(m.Answers) == 1
}

// However much one proxy sends, of whatever kind, a neighbour's questions are answered, and what is dropped is counted.
func TestFloodBesideANeighbour(t *testing.T) {
	t.Parallel()
	server := serve(t, public)
	m := start(t, wire.Settings{Servers: []netip.Addr{server.addr}})
	m.open(bank(1))
	m.open(bank(2))
	neighbour := m.proxy(2)
	lost := 0
	took := func() time.Duration {
		var all []time.Duration
		for i := range 200 {
			began := time.Now()
			answered := false
			for tries := 0; tries < 6 && !answered; tries++ { // where there is no processor to read questions, the kernel drops some
				lost += set(tries > 0)
				answered = neighbour.asks(question(uint16(i), fmt.Sprintf("n%d.wild.example.", i%20), typeA))
			}
			if !answered {
				t.Fatalf("the neighbour's question %d is not answered", i)
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
		await.Until(t, "the flood is one", func() bool { return sent.Load() >= 2*questionBurst })
		rate := float64(sent.Load()) / time.Since(began).Seconds()
		over.Store(true)
		wait.Wait()
		t.Logf("a question takes %v alone, and %v beside %.0f of %.20q a second; %d were lost", alone, beside, rate, text, lost)
	}
	if e := m.event(1, wire.TooMany); !strings.Contains(e.Why, "too many") {
		t.Errorf("told %+v", e)
	}
	m.event(1, wire.Owned)
	if m.events(2, wire.TooMany) > 0 {
		t.Error("the neighbour asks too many questions")
	}
}
